"""Content codings of request bodies (RFC 9110, 8.4), decoded within a bound."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

TAKEN: Final = "gzip, deflate, zstd"
_MAX_CODINGS: Final = 3
_GZIP_WBITS: Final = zlib.MAX_WBITS | 16
_RAW_WBITS: Final = -zlib.MAX_WBITS
_ZSTD_OPTIONS: Final[Mapping[int, int]] = {DecompressionParameter.window_log_max: 23}
"""A window of 8 MB, which every decoder accepts (RFC 8878, 3.1.1.1.2); not more memory."""
_MAX_MEMBERS: Final = 4_096
_SLICE_BYTES: Final = 1 << 16
_STEP_BYTES: Final = 1 << 20


class NotTaken(Exception):  # noqa: N818 - named by what the client sent
    """A coding that is not known here."""


class NotDecodable(Exception):  # noqa: N818 - named by what the client sent
    """The body is not what its coding says."""


class TooLong(Exception):  # noqa: N818 - named by what the client sent
    """Decoded, it is over the limit."""


class _Decoder(Protocol):
    """Of one member of a gzip file, one zlib stream or one zstd frame."""

    @property
    def eof(self) -> bool:
        """It has decoded all of it."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What was fed beyond its end."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode on, in pieces of at most ``_STEP_BYTES``."""
        ...


def codings(header: str) -> tuple[str, ...]:
    """The codings of a Content-Encoding header in the order they were applied, without
    ``identity``. Raises NotTaken."""
    named = (name.strip().lower() for name in header.split(","))
    found = tuple(name for name in named if name not in ("", "identity"))
    for name in found:
        if name not in _DECODERS:
            raise NotTaken(name)
    if len(found) > _MAX_CODINGS:
        raise NotTaken(f"{len(found)} of them")
    return found


def decode(body: bytes, applied: tuple[str, ...], most: int) -> bytes:
    """The body as it was before the codings. No step of it is longer than ``most`` bytes. Raises
    NotDecodable, TooLong."""
    for name in reversed(applied):
        body = _decoded(body, name, most)
    return body


def _decoded(body: bytes, name: str, most: int) -> bytes:
    parts: list[bytes] = []
    at = size = members = 0
    while at < len(body):
        members += 1
        if members > _MAX_MEMBERS:
            raise NotDecodable(f"the body has more than {_MAX_MEMBERS} {name} members")
        decoder = _DECODERS[name](body[at : at + 2])
        while not decoder.eof:
            given = body[at : at + _SLICE_BYTES]
            if not given:
                raise NotDecodable(f"the body ends before its {name} coding does")
            try:
                for piece in decoder.feed(given):
                    size += len(piece)
                    if size > most:
                        raise TooLong
                    parts.append(piece)
            except (zlib.error, ZstdError) as error:
                raise NotDecodable(f"the body is not {name}") from error
            at += len(given) - len(decoder.unused_data)
        if name == "deflate" and at < len(body):
            raise NotDecodable("there is more behind the deflate coding")
    return b"".join(parts)


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._of = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._of.eof

    @property
    def unused_data(self) -> bytes:
        return self._of.unused_data

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._of.decompress(data, _STEP_BYTES)
            yield piece
            data = self._of.unconsumed_tail
            if self._of.eof or (not data and len(piece) < _STEP_BYTES):
                return


class _Zstd:
    def __init__(self) -> None:
        self._of = ZstdDecompressor(options=_ZSTD_OPTIONS)

    @property
    def eof(self) -> bool:
        return self._of.eof

    @property
    def unused_data(self) -> bytes:
        return self._of.unused_data

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            yield self._of.decompress(data, _STEP_BYTES)
            if self._of.eof or self._of.needs_input:
                return
            data = b""


def _deflate(start: bytes) -> _Zlib:
    """A zlib stream (RFC 1950) as it should be, or a bare one as some clients send it."""
    is_zlib = len(start) > 1 and start[0] & 0x0F == 8 and (start[0] << 8 | start[1]) % 31 == 0
    return _Zlib(zlib.MAX_WBITS if is_zlib else _RAW_WBITS)


_DECODERS: Final[dict[str, Callable[[bytes], _Decoder]]] = {
    "gzip": lambda _: _Zlib(_GZIP_WBITS),
    "x-gzip": lambda _: _Zlib(_GZIP_WBITS),
    "deflate": _deflate,
    "zstd": lambda _: _Zstd(),
}
"""By name, for the first bytes of what is to be decoded."""
