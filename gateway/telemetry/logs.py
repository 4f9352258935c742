"""The log of our own processes: one handler on stderr."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_FORMAT = "%(asctime)s %(levelname)-7s %(process_role)s %(name)s: %(message)s"
_CHATTY = ("aiohttp.access", "asyncio", "watchfiles")


def set_up(level: str, *, role: str, stream: TextIO | None = None) -> None:
    """Set the log of the process up, in place of any earlier set-up.

    ``level``: debug, info, warning or error. ``role``: what this process is ("supervisor",
    "picker-0"). ``stream`` None: stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, defaults={"process_role": role}))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
