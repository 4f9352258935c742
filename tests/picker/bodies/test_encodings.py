"""Content codings: what is decoded, within which bound, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from picker.bodies.encodings import NotDecodable, NotTaken, TooLong, codings, decode


def bare(body: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(body) + made.flush()


CODED: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare),
    ("zstd", zstd.compress),
)
EACH = pytest.mark.parametrize(("name", "encode"), CODED)
BODY = b'{"model":"m","prompt":"Hello"}' * 10_000


@EACH
@pytest.mark.parametrize("body", [b"x", BODY, bytes(3 << 20)])
def test_what_was_encoded_comes_out(
    name: str, encode: Callable[[bytes], bytes], body: bytes
) -> None:
    assert decode(encode(body), codings(name), 4 << 20) == body


def test_several_are_undone_from_the_last_to_the_first() -> None:
    body = zstd.compress(gzip.compress(BODY))
    assert decode(body, codings("identity, GZIP , zstd,"), len(BODY)) == BODY


@pytest.mark.parametrize(("name", "encode"), [CODED[0], CODED[4]])
def test_members_that_follow_each_other_are_one_body(
    name: str, encode: Callable[[bytes], bytes]
) -> None:
    assert decode(encode(b"a" * 70_000) + encode(b"b"), (name,), 1 << 20) == b"a" * 70_000 + b"b"
    with pytest.raises(NotDecodable, match="members"):
        decode(encode(b"") * 5_000, (name,), 1 << 20)


@EACH
def test_a_bomb_is_refused_at_the_limit(name: str, encode: Callable[[bytes], bytes]) -> None:
    assert decode(encode(bytes(1_000)), (name,), 1_000) == bytes(1_000)
    for size in (1_001, 50_000_000):
        with pytest.raises(TooLong):
            decode(encode(bytes(size)), (name,), 1_000)
    with pytest.raises(TooLong):
        decode(encode(encode(bytes(50_000_000))), (name, name), 100_000)


@EACH
def test_what_is_not_whole_is_refused(name: str, encode: Callable[[bytes], bytes]) -> None:
    whole = encode(BODY)
    for broken in (whole[:-1], whole[: len(whole) // 2], whole + b"x", BODY, b"\xff"):
        with pytest.raises(NotDecodable):
            decode(broken, (name,), 1 << 20)


def test_a_large_window_is_refused() -> None:
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    large = stream.compress(BODY) + stream.flush()
    with pytest.raises(NotDecodable):
        decode(large, ("zstd",), 1 << 20)


@pytest.mark.parametrize("header", ["br", "compress", "gzip, br", "gzip" + ", gzip" * 3, "\xe9"])
def test_other_codings_are_not_taken(header: str) -> None:
    with pytest.raises(NotTaken):
        codings(header)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "zstd"]))
def test_any_bytes_are_decoded_or_refused(body: bytes, name: str) -> None:
    with contextlib.suppress(NotDecodable, TooLong):
        decode(body, (name,), 10_000)
