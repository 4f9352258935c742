"""The Lua scripts of the Redis store, and how rules are written for them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final

from policies.limits.types import CalendarWindow, Period, Rule, TokenBucket

_WINDOWS: Final = {
    Period.SECOND: "s",
    Period.MINUTE: "m",
    Period.HOUR: "h",
    Period.DAY: "d",
    Period.MONTH: "M",
}


@dataclass(frozen=True, slots=True)
class Script:
    """Source and the SHA-1 that Redis knows it by."""

    source: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Script:
        """``common.lua`` followed by ``{name}.lua``, both beside this module."""
        folder = resources.files("gateway.limits")
        source = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in ("common", name))
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@lru_cache(maxsize=16_384)
def rule_text(rule: Rule) -> str:
    """As ``common.lua`` reads it."""
    if isinstance(rule, TokenBucket):
        return f"t {rule.capacity} {rule.refill} {rule.period_ms}"
    if isinstance(rule, CalendarWindow):
        return f"{_WINDOWS[rule.period]} {rule.limit}"
    return f"c {rule.limit}"
