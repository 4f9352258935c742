"""Puts the model's name as the client gave it into a response that passes, in place of the name
that served: at the top level only, and in streams also in the ``response`` or ``message`` of an
event. Nothing is held back but the beginning of a name that may have to change.

On the fast path ``gateway/envoy/rename.lua`` does the same.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from itertools import zip_longest
from typing import Final

import orjson

_MODEL: Final = "model"
_HOLDERS: Final = frozenset({"response", "message"})
"""What holds the model's name in events of the Responses API and of Anthropic."""
_LONGEST_KEY_BYTES: Final = 6 * len("response")
"""A key that is written in escapes takes six bytes a letter."""

_STRING: Final = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_IN_STRING: Final = re.compile(_STRING, re.DOTALL)
_MEMBER: Final = re.compile(rb'["{}\[\],:]')
_NESTED: Final = re.compile(rb'"' + _STRING + rb'"|["{}\[\]]', re.DOTALL)

_DATA: Final = b"data:"
_LINE_ENDS: Final = (b"\n", b"\r\n", b"\r")
_KEY: Final = b'"model"'
_GLANCE: Final = re.compile(rb'[^{]*+\{[^{\[\\]*?"model"')
"""The key in the outermost object, with no nested value before it."""
_VALUE: Final = re.compile(rb"\s*+:\s*+")


class _Inside(Enum):
    """What a string that has begun is."""

    KEY = auto()
    NAME = auto()
    """The value of ``model`` where it may have to change."""
    OTHER = auto()


class JsonRenamer:
    """Follows JSON text, in pieces cut anywhere. ``holders``: keys of the outermost object whose
    objects hold a model's name as well."""

    def __init__(self, served: str, asked: str, holders: frozenset[str] = frozenset()) -> None:
        self._served = served
        self._asked = orjson.dumps(asked)[1:-1]
        self._longest_bytes = 6 * len(served.encode("utf-8", "surrogatepass"))
        self._holders = holders
        self._held = bytearray()
        """Of the key or name that has begun."""
        self.reset()

    def reset(self) -> None:
        """Another text begins; nothing may be held any more."""
        self._depth = 0
        self._watched = 0
        """Depth of the innermost object whose members matter; 0: outside of any."""
        self._at_value = False
        self._key = ""
        self._inside: _Inside | None = None
        self._escaped = False
        """The piece ended behind a backslash."""

    def feed(self, text: bytes) -> bytes:
        """What the client gets in exchange for the next piece."""
        out: list[bytes] = []
        at = kept = 0
        while at < len(text):
            if self._inside is not None:
                at, kept = self._string(text, at, kept, out)
            elif self._depth > self._watched:
                at = self._skip(text, at)
            else:
                at = self._member(text, at)
        out.append(text[kept:])
        return b"".join(out)

    def rest(self) -> bytes:
        """What is held back, when the text ends or breaks off."""
        rest = bytes(self._held) if self._inside is _Inside.NAME else b""
        self._held.clear()
        if self._inside is not None:
            self._inside = _Inside.OTHER
        return rest

    def _member(self, text: bytes, at: int) -> int:
        """Goes on to the next sign between members of a watched object, or outside of all."""
        found = _MEMBER.search(text, at)
        if found is None:
            return len(text)
        match found.group():
            case b'"':
                self._inside = self._begun()
                self._held.clear()
            case b",":
                self._at_value = False
                self._key = ""
            case b":":
                self._at_value = True
            case b"{":
                outermost = self._depth == 0
                if outermost or (
                    self._depth == 1 and self._at_value and self._key in self._holders
                ):
                    self._watched += 1
                    self._at_value = False
                self._depth += 1
                self._key = ""
            case b"[":
                self._depth += 1
            case _:
                self._close()
        return found.end()

    def _begun(self) -> _Inside:
        if self._depth == 0:
            return _Inside.OTHER
        if not self._at_value:
            return _Inside.KEY
        return _Inside.NAME if self._key == _MODEL else _Inside.OTHER

    def _close(self) -> None:
        self._depth = max(0, self._depth - 1)
        if self._watched > self._depth:
            self._watched = self._depth
            self._at_value = True  # behind the value that has ended
            self._key = ""

    def _skip(self, text: bytes, at: int) -> int:
        """Goes on to the end of what is nested, or of the piece."""
        depth, watched = self._depth, self._watched
        end = len(text)
        for found in _NESTED.finditer(text, at):
            sign = text[found.start()]
            if sign == 0x22:
                if found.end() - found.start() == 1:
                    self._inside = _Inside.OTHER
                    end = found.end()
                    break
            elif sign in b"{[":
                depth += 1
            else:
                depth -= 1
                if depth == watched:
                    end = found.end()
                    break
        self._depth = depth
        return end

    def _string(self, text: bytes, at: int, kept: int, out: list[bytes]) -> tuple[int, int]:
        """Goes on to the end of a string, or of the piece; where to go on, and from where the
        text is not in ``out`` yet."""
        begins = at
        if self._escaped:
            self._escaped = False
            at += 1
        found = _IN_STRING.match(text, at)
        assert found is not None, "it matches the empty text"
        at = found.end()
        closes = text[at : at + 1] == b'"'
        if not closes and at < len(text):
            self._escaped = True
            at += 1
        name = self._inside is _Inside.NAME
        if name and not self._held:
            out.append(text[kept:begins])
        if self._inside is not _Inside.OTHER:
            self._held += text[begins:at]
        if len(self._held) > (self._longest_bytes if name else _LONGEST_KEY_BYTES):
            self._inside = _Inside.OTHER
            if name:
                out.append(bytes(self._held))
            self._held.clear()
        if name:
            kept = at
        if not closes:
            return at, kept
        if self._inside is _Inside.KEY:
            self._key = _meant(bytes(self._held))
        elif self._inside is _Inside.NAME:
            held = bytes(self._held)
            out.append(self._asked if _meant(held) == self._served else held)
            self._key = ""
        self._held.clear()
        self._inside = None
        return at + 1, kept


def _meant(written: bytes) -> str:
    """The string that is written so, without its quotation marks; "" for none."""
    if b"\\" not in written:
        return written.decode("utf-8", "replace")
    try:
        return str(orjson.loads(b'"%s"' % written))
    except orjson.JSONDecodeError:
        return ""


class EventRenamer:
    """Follows the events of a stream (text/event-stream), in pieces cut anywhere."""

    def __init__(self, served: str, asked: str) -> None:
        self._json = JsonRenamer(served, asked, _HOLDERS)
        self._served, self._asked = orjson.dumps(served), orjson.dumps(asked)
        self._fresh = True
        """Nothing of the event's data has passed."""
        self._begun = b""
        """How the line begins, up to the end of a field's name."""
        self._after_cr = False

    def feed(self, text: bytes) -> bytes:
        """What the client gets in exchange for the next piece."""
        out: list[bytes] = []
        lines = text.splitlines(keepends=True)
        for line, following in zip_longest(lines, lines[1:], fillvalue=b""):
            if self._after_cr and line == b"\n":  # the end of a line was cut in two
                self._after_cr = False
                out.append(line)
                continue
            content = line.rstrip(b"\r\n")
            self._line(content, out, whole=following in _LINE_ENDS)
            self._after_cr = line.endswith(b"\r")
            if len(content) < len(line):
                out += (self._json.rest(), line[len(content) :])
                if not self._begun:
                    self._json.reset()
                    self._fresh = True
                self._begun = b""
        return b"".join(out)

    def _line(self, content: bytes, out: list[bytes], *, whole: bool) -> None:
        """The next of a line. ``whole``: to its end, and the event ends with it."""
        missing = len(_DATA) - len(self._begun)
        if missing > 0 and content:
            self._begun += content[:missing]
            out.append(content[:missing])
            content = content[missing:]
        if not content:
            return
        if self._begun == _DATA:
            whole = whole and self._fresh and missing == len(_DATA)
            seen = self._at_a_glance(content) if whole else None
            content = self._json.feed(content) if seen is None else seen
            self._fresh = False
        out.append(content)

    def _at_a_glance(self, text: bytes) -> bytes | None:
        """An event's whole JSON with the name in it changed, where one look shows where it
        stands: most events of a chat are so."""
        if b"\\u006" in text:
            return None  # a letter of the key may be written as an escape
        first = text.find(_KEY)
        if first < 0:
            return text
        found = _GLANCE.match(text)
        if found is None or found.end() != first + len(_KEY):
            return None
        value = _VALUE.match(text, found.end())
        if value is None or not text.startswith(self._served, value.end()):
            return None
        behind = value.end() + len(self._served)
        if _KEY in text[behind:]:
            return None
        return text[: value.end()] + self._asked + text[behind:]

    def rest(self) -> bytes:
        """What is held back, when the stream ends."""
        return self._json.rest()
