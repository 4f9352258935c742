"""Follows a long JSON answer as it passes, for the usage in it: nothing is held or read as a whole,
so that each piece takes the loop for a moment only.

On the fast path ``gateway/envoy/answers.lua`` does the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_REPORTING: Final = frozenset({b"usage", b"meta_info"})
"""Members of the outermost object that may report usage."""
_MAX_REPORT_BYTES: Final = 65_536
_MAX_KEY_BYTES: Final = 32

_REST: Final = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_STRING: Final = rb'"(?P<text>' + _REST + rb')(?P<end>"|\\?\Z)'
"""Up to its end, or to that of the piece."""
_IN_STRING: Final = re.compile(rb"(?P<text>" + _REST + rb')(?P<end>"|\\?\Z)', re.DOTALL)
_MEMBER: Final = re.compile(_STRING + rb"|[{}\[\],:]", re.DOTALL)
_NESTED: Final = re.compile(_STRING + rb"|[{}\[\]]", re.DOTALL)


class AnswerFollower:
    """Feeds on pieces cut anywhere. ``report``: called with the key and the text of each object
    that may report usage."""

    def __init__(self, report: Callable[[str, bytes], None]) -> None:
        self._report = report
        self._depth = 0
        self._outermost = 0
        """Depth of the members that matter; 0: there are none."""
        self._in_string = False
        self._odd = False
        """The piece before ended in a backslash that escapes."""
        self._key = b""
        self._reading_key = False
        self._at_value = False
        self._captured: bytearray | None = None

    def feed(self, data: bytes) -> None:
        """The next piece of the answer."""
        at, start = 0, 0
        if self._in_string and data:  # it goes on
            found = _IN_STRING.match(data, 1 if self._odd else 0)
            at = len(data) if found is None else self._string(found)
        while at < len(data):
            if self._depth > self._outermost:
                at = self._nested(data, at)
                if self._captured is not None and self._depth <= self._outermost:
                    self._capture(data[start:at])
                    if self._captured is not None:
                        self._report(self._key.decode("ascii"), bytes(self._captured))
                    self._captured = None
            else:
                before = self._captured
                at = self._member(data, at)
                if self._captured is not before:
                    start = at - 1
        if self._captured is not None:
            self._capture(data[start:])

    def _capture(self, piece: bytes) -> None:
        assert self._captured is not None
        self._captured += piece
        if len(self._captured) > _MAX_REPORT_BYTES:
            self._captured = None

    def _string(self, found: re.Match[bytes]) -> int:
        """A string, or as much of it as there is; where it ends."""
        if self._reading_key and len(self._key) < _MAX_KEY_BYTES:
            self._key += found["text"]
        self._in_string = found["end"] != b'"'
        self._odd = found["end"] == b"\\"
        self._reading_key = self._reading_key and self._in_string
        return found.end()

    def _nested(self, data: bytes, at: int) -> int:
        """Goes on to the end of what is nested, or of the piece."""
        for found in _NESTED.finditer(data, at):
            sign = data[found.start()]
            if sign == 0x22:  # "
                self._string(found)
            elif sign in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= self._outermost:
                    return found.end()
        return len(data)

    def _member(self, data: bytes, at: int) -> int:
        """Goes on to the next sign between members of the outermost object, or outside of it."""
        found = _MEMBER.search(data, at)
        if found is None:
            return len(data)
        sign = data[found.start()]
        if sign == 0x22:  # "
            self._reading_key = self._depth == 1 and not self._at_value
            if self._reading_key:
                self._key = b""
            return self._string(found)
        if sign in b",:":
            self._at_value = sign == 0x3A
        elif sign in b"{[":
            if self._depth == 0:
                self._outermost = 1 if sign == 0x7B else 0
            elif self._at_value and sign == 0x7B and self._key in _REPORTING:
                self._captured = bytearray()
            self._depth += 1
        else:
            self._depth -= 1
            self._outermost = 0
        return found.end()
