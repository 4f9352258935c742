"""The Lua scripts of the Redis store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source, and the SHA-1 by which Redis knows it."""

    source: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Script:
        """``common.lua`` followed by ``{name}.lua``, both beside this module."""
        folder = resources.files("gateway.limits.redis")
        source = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in ("common", name))
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
