"""A picker in a process of its own, driven line by line over stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from msgspec.structs import replace

from picker.replication.local import LocalPeers
from picker.request.report import Ending, Report
from tests.picker.fleet import address, chat, decided, fleet, head


async def main(name: str, own: str, others: list[str]) -> None:
    peers = LocalPeers(name, own=Path(own), others=[Path(other) for other in others])
    made = fleet(name=name, peers=peers)
    peers.start(made.picker.flights)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        answer: object = None
        if order["do"] == "decide":
            decision = await decided(made, chat(order["text"]), head(x_session_id=order["session"]))
            answer = {"id": decision.id, "address": decision.addresses[0]}
        elif order["do"] == "complete":
            made.picker.complete(replace(_END, id=order["id"], owner=order["owner"]))
        elif order["do"] == "live":
            made.picker.flights.pickers_live(order["ids"])
        elif order["do"] == "look":
            answer = {
                "in_flight": made.in_flight(),
                "observed": len(made.seen.completions),
                "matched": [done.matched_tokens for done in made.seen.completions],
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    peers.stop()


_END = Report("", "", address(1), 200, Ending.OK, 1.0, input_tokens=10, output_tokens=5)

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
