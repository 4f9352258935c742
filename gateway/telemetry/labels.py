"""Label values in bounded number, whatever clients send."""

from __future__ import annotations

from collections.abc import Callable

UNKNOWN = "unknown"
OTHER = "other"


class LabelLimiter:
    """Keeps the first ``cap`` known values. Unknown values become "unknown", further ones
    "other"."""

    def __init__(self, cap: int, known: Callable[[str], bool] | None = None) -> None:
        self._cap = cap
        self._known = known
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """The label value to use for ``value``."""
        if value in self._seen:
            return value
        if not value or (self._known is not None and not self._known(value)):
            return UNKNOWN
        if len(self._seen) >= self._cap:
            return OTHER
        self._seen.add(value)
        return value
