"""The log of our own processes: one handler on stderr, as text for people or as JSON."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

LogFormat = Literal["human", "json"]

_HUMAN = "%(asctime)s %(levelname)-7s %(process_role)s %(name)s: %(message)s"
_CHATTY = ("aiohttp.access", "asyncio", "watchfiles")


def set_up(
    level: str, log_format: LogFormat = "human", *, role: str, stream: TextIO | None = None
) -> None:
    """Set the log of the process up, in place of any earlier set-up.

    ``level``: debug, info, warning or error. ``role``: what this process is ("supervisor",
    "picker-0"). ``stream`` None: stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_Role(role))
    handler.setFormatter(_Json() if log_format == "json" else logging.Formatter(_HUMAN))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class _Role(logging.Filter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def filter(self, record: logging.LogRecord) -> bool:
        record.process_role = self._role
        return True


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "role": getattr(record, "process_role", ""),
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage().encode("utf-8", "replace").decode(),
        }
        if record.exc_info:
            fields["exception"] = (
                self.formatException(record.exc_info).encode("utf-8", "replace").decode()
            )
        return orjson.dumps(fields, option=orjson.OPT_UTC_Z).decode("utf-8", "replace")
