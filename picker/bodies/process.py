"""The process of `apart.BodyProcess`: does what it is asked until its parent is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Final

from picker.bodies.apart import receive, send

log = logging.getLogger(__name__)

_NICENESS: Final = 5
_DIES_FIRST: Final = "500"
"""For the kernel, when memory runs out: this process before any other of the gateway."""


def main() -> None:
    """Serve requests on standard input: a pickled call, then the body that it works on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to parent and child
    logging.basicConfig(stream=sys.stderr)
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_DIES_FIRST)
    source = os.fdopen(0, "rb")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what prints must not spoil the answers
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            work, args, kwargs = pickle.loads(receive(source))  # noqa: S301 - of our own parent
            body = receive(source)
            try:
                reply = pickle.dumps((True, work(body, *args, **kwargs)), protocol=5)
            except MemoryError:
                raise  # ends the process, and with it what it holds
            except Exception as error:
                log.exception("a body of %d bytes", len(body))
                reply = pickle.dumps((False, repr(error)))
            del body
            send(sink, reply)


if __name__ == "__main__":
    main()
    sys.exit(0)
