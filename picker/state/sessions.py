"""Sessions: which endpoint a session is bound to."""

from __future__ import annotations

from collections import OrderedDict


class Sessions:
    """Session id to endpoint address, bounded: the least recently used are forgotten first.

    A binding is kept for ``ttl_s`` after its last use. Whether the endpoint still lives is for
    the caller to see, who then binds the session anew.
    """

    def __init__(self, *, max_sessions: int, ttl_s: float) -> None:
        if max_sessions < 1 or ttl_s <= 0:
            raise ValueError("max_sessions must be at least 1 and ttl_s more than 0")
        self._max_sessions = max_sessions
        self._ttl_s = ttl_s
        self._bound: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._bound)

    def address_of(self, session_id: str, now_s: float) -> str | None:
        """Address that the session is bound to; None when it is not, or not used for too long."""
        bound = self._bound.get(session_id)
        if bound is None:
            return None
        address, used_s = bound
        if now_s - used_s > self._ttl_s:
            del self._bound[session_id]
            return None
        return address

    def unbind(self, session_id: str, address: str) -> None:
        """``address`` has failed the session: whatever serves it next is as good."""
        bound = self._bound.get(session_id)
        if bound is not None and bound[0] == address:
            del self._bound[session_id]

    def bind(self, session_id: str, address: str, now_s: float) -> None:
        """Bind, rebind or refresh: the session was served by ``address`` now."""
        self._bound[session_id] = (address, now_s)
        self._bound.move_to_end(session_id)
        oldest_s = now_s - self._ttl_s
        while self._bound:
            first = next(iter(self._bound))
            if len(self._bound) <= self._max_sessions and self._bound[first][1] >= oldest_s:
                break
            del self._bound[first]
