"""A replica for tests: answers /health with 200 and / with what it was started with."""

import http.server
import json
import os
import pathlib
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        healthy = self.path == "/health" and not pathlib.Path("unhealthy").exists()
        body = json.dumps({"pid": os.getpid(), "argv": sys.argv, "env": dict(os.environ)})
        self.send_response(200 if healthy or self.path == "/" else 503)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    if pathlib.Path("broken").exists():
        sys.exit("CUDA out of memory")
    time.sleep(float(os.environ.get("SLOW_START_S", "0")))
    server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
    print("listening", flush=True)
    server.serve_forever()
