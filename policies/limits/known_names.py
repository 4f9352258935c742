"""Names that clients choose, kept to a number: each one is a bucket."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_NAMES: Final = 10_000
IDLE_S: Final = 3_600.0
OTHERS: Final = "(others)"
"""The name that all names have which are one too many."""


class KnownNames:
    """Of each group, such as the sessions of a tenant, the names that are in use. A new one takes
    the place of the one that has been idle for longest, if that is longer than `IDLE_S`; if all
    are in use, it counts as `OTHERS`, so that making up names brings no limit of one's own."""

    def __init__(self, *, max_names: int = MAX_NAMES, idle_s: float = IDLE_S) -> None:
        """Of each group."""
        self._max, self._idle_s = max_names, idle_s
        self._groups: dict[tuple[str, str], OrderedDict[str, float]] = {}

    def known(self, group: tuple[str, str], name: str, now_s: float) -> str:
        """The name, or `OTHERS`. "" stays "": there is none."""
        if not name:
            return name
        names = self._groups.get(group)
        if names is None:
            names = self._groups[group] = OrderedDict()
        if name not in names and len(names) >= self._max:
            oldest, used_s = next(iter(names.items()))
            if now_s - used_s < self._idle_s:
                return OTHERS
            del names[oldest]
        names[name] = now_s
        names.move_to_end(name)
        return name
