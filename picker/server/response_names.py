"""Puts the ids of stored responses that clients know in place of those that replicas use, for the
standard transport; on the fast path ``response_ids.lua`` does the same."""

from __future__ import annotations

import re
from typing import Final

from picker.request.answer import ResponseNames
from picker.request.response_ids import given_id

_ID: Final = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_-]+)"')
_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""An answer longer than this passes as it is from there on."""


class NamesWriter:
    """Feeds on body chunks; holds a JSON answer to its end, and each event of a stream to its."""

    def __init__(self, names: ResponseNames, address: str, *, streaming: bool) -> None:
        self._names, self._address, self._streaming = names, address, streaming
        self._held = bytearray()
        self._replaced: dict[bytes, bytes] = {}
        if names.known is not None:
            held, given = names.known
            self._replaced[b'"%s"' % held.encode()] = b'"%s"' % given.encode()
            # In the text of an error.
            self._replaced[b"'%s'" % held.encode()] = b"'%s'" % given.encode()
        self._knows_id = names.issue is None

    def feed(self, data: bytes, *, end: bool) -> bytes:
        """Bytes for the client in exchange for the next bytes of the answer."""
        self._held += data
        if end or len(self._held) > MAX_HELD_BYTES:
            return self.finish()
        if not self._streaming:
            return b""
        stop = 0
        for match in _EVENT_END.finditer(self._held):
            stop = match.end()
        whole = bytes(self._held[:stop])
        del self._held[:stop]
        return self._written(whole)

    def finish(self) -> bytes:
        """What is still held back, at the end."""
        rest = bytes(self._held)
        self._held.clear()
        return self._written(rest)

    def _written(self, text: bytes) -> bytes:
        if not self._knows_id and self._names.issue is not None:
            found = _ID.search(text)
            if found is not None:
                self._knows_id = True
                own = found[1].decode()
                given = given_id(self._names.issue, self._address, own)
                self._replaced.setdefault(b'"%s"' % found[1], b'"%s"' % given.encode())
        for own_id, given_as in self._replaced.items():
            text = text.replace(own_id, given_as)
        return text
