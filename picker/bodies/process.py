"""The process of `apart.BodyProcess`: does what it is asked until its parent is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, cast

from picker.bodies.apart import WorkFailed, receive_object, send_object

_Call: TypeAlias = tuple[Callable[..., object], tuple[object, ...], dict[str, object]]
_Asked: TypeAlias = tuple[_Call, bytes]

log = logging.getLogger(__name__)

_NICENESS: Final = 2
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
            send_object(sink, _done(*cast("_Asked", receive_object(source))))


def _done(call: _Call, body: bytes) -> object:
    work, args, kwargs = call
    try:
        return work(body, *args, **kwargs)
    except MemoryError:
        raise  # ends the process, and with it what it holds
    except Exception as error:
        log.exception("a body of %d bytes", len(body))
        return WorkFailed(repr(error))


if __name__ == "__main__":
    main()
    sys.exit(0)
