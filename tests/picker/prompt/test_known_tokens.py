"""Tokens of prompts that were tokenized lately."""

from __future__ import annotations

from picker.prompt.blocks import hash_blocks
from picker.prompt.forms import Prompt
from picker.prompt.known_tokens import KnownTokens


def chain(text: bytes) -> list[int]:
    return hash_blocks(Prompt((text,), len(text), 0), model="m").chains[0]


FIRST, SECOND = b"first turn " * 200, b"second turn " * 100


def test_a_prompt_is_known_by_its_key_and_the_next_turn_by_its_beginning() -> None:
    known = KnownTokens()
    known.keep(1, FIRST, chain(FIRST), b"ids1")
    assert known.whole(1) == (b"ids1", "engine")
    assert known.whole(2) == (None, "")
    longer = FIRST + SECOND
    assert known.beginning(longer, chain(longer))[0] == b"ids1"
    known.keep(2, longer, chain(longer), b"ids22")
    last = longer + SECOND
    assert known.beginning(last, chain(last))[0] == b"ids22"


def test_what_only_begins_alike_is_another_prompt() -> None:
    known = KnownTokens()
    known.keep(1, FIRST + b"a", chain(FIRST + b"a"), b"ids1")
    other = FIRST + b"b" + SECOND
    assert known.beginning(other, chain(other))[0] is None
    assert known.beginning(FIRST, chain(FIRST))[0] is None
    assert known.beginning(b"short", chain(b"short"))[0] is None


def test_the_oldest_go_when_there_are_too_many() -> None:
    known = KnownTokens(most_bytes=1_100)
    for key in range(5):
        text = FIRST + bytes([65 + key]) * 600
        known.keep(key, text, chain(text), b"abcd")
    assert [key for key in range(5) if known.whole(key)[0]] == [3, 4]
    known.keep(4, FIRST, chain(FIRST), b"abcd" * 150)
    assert not known._known
    assert not known._by_block
