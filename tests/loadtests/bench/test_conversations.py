"""Requests of conversations that go on."""

from __future__ import annotations

import orjson

from loadtests.bench.conversations import Conversations
from picker.prompt.blocks import hash_blocks
from picker.prompt.forms import Form, read_prompt


def chain(body: bytes) -> list[int]:
    return hash_blocks(read_prompt(Form.CHAT, orjson.loads(body)), model="m").chains[0]


def test_most_blocks_of_a_prompt_of_about_20_kb_were_in_an_earlier_one() -> None:
    conversations = Conversations(50, seed=1)
    sizes: list[int] = []
    known: set[int] = set()
    new = blocks = 0
    for _ in range(2_000):
        _, body = conversations.next()
        hashes = chain(body)
        sizes.append(len(body))
        new += len(set(hashes) - known)
        blocks += len(hashes)
        known.update(hashes)
    assert 16_000 <= min(sizes) <= max(sizes) <= 25_000
    assert 18_500 < sum(sizes) / len(sizes) < 22_000
    assert new < 0.2 * blocks


def test_a_session_is_one_conversation() -> None:
    conversations = Conversations(5, seed=2)
    begun: dict[str, bytes] = {}
    for _ in range(200):
        session, body = conversations.next()
        content = orjson.loads(body)["messages"][1]["content"].encode()
        assert begun.setdefault(session, content) == content
    assert len(begun) > 20
