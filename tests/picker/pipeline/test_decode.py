"""Encoded bodies on their way: what the replica gets, and how others are refused."""

from __future__ import annotations

import gzip

import orjson
import pytest

from picker.settings import RewriteRule, RewriteTarget
from tests.picker.fleet import MODEL, chat, decided, fleet, head, refused


async def test_a_replica_gets_the_body_decoded() -> None:
    for body in (chat(), chat("x" * 100_000)):
        decision = await decided(
            fleet(), gzip.compress(body), head(content_encoding="gzip", content_length="9")
        )
        assert decision.body == body
        assert "content-encoding" in decision.remove_headers


async def test_an_encoded_body_can_be_changed_too() -> None:
    made = fleet()
    made.configure(rewrites=[RewriteRule("alias", (RewriteTarget(MODEL),))])
    encoded = gzip.compress(chat(model="alias"))
    decision = await decided(made, encoded, head(content_encoding="gzip"))
    assert decision.body is not None
    assert orjson.loads(decision.body)["model"] == MODEL


async def test_a_path_that_is_not_read_is_decoded_all_the_same() -> None:
    body = b"any bytes"
    request = head("/v1/audio/speech", content_encoding="gzip", content_type="text/plain")
    assert (await decided(fleet(), gzip.compress(body), request)).body == body


async def test_identity_is_no_coding() -> None:
    decision = await decided(fleet(), chat(), head(content_encoding="identity"))
    assert decision.body is None
    assert "content-encoding" in decision.remove_headers


async def test_a_byte_order_mark_is_left_out() -> None:
    decision = await decided(fleet(), b"\xef\xbb\xbf" + chat())
    assert decision.body == chat()


@pytest.mark.parametrize(
    ("coding", "body", "status", "words"),
    [
        ("br", chat(), 415, b"gzip, deflate, zstd"),
        ("gzip", chat(), 400, b"not gzip"),
        ("zstd", b"\x28\xb5\x2f\xfd" + bytes(20), 400, b"zstd"),
        ("gzip", gzip.compress(bytes(2_000_000)), 413, b"1000000"),
        ("gzip", bytes(1_000_001), 413, b"1000000"),
    ],
)
async def test_refusals(coding: str, body: bytes, status: int, words: bytes) -> None:
    made = fleet()
    made.configure(max_body_bytes=1_000_000)
    answer = await refused(made, body, head(content_encoding=coding))
    assert answer.status == status
    assert words in answer.body
    assert (("accept-encoding", "gzip, deflate, zstd") in answer.headers) == (status == 415)
