"""Text in parts has the tokens of the whole, whatever the vocabulary; known parts cost nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from gateway.tokenizers.load import Tiktoken
from gateway.tokenizers.model_folder import EngineOptions, read_model
from gateway.tokenizers.segments import Segments, TooLong
from tests.gateway.tokenizers.folders import KINDS, SPECIAL, TEXT, folder


def conversation(rng: random.Random, turns: int) -> str:
    pieces = [*TEXT, " ", "  ", "\n", "a", "<|im", "<|l|>", "<|r|>", "é", "e\u0301", " <|im_end|> "]
    return "".join(
        rng.choice(SPECIAL) + "".join(rng.choices(pieces, k=rng.randrange(40)))
        for _ in range(turns)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_the_tokens_of_the_whole(tmp_path: Path, kind: str) -> None:
    model = read_model(folder(tmp_path, kind), EngineOptions())
    whole, rng = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), random.Random(kind)
    for _ in range(30):
        start = rng.choice(["", "word ", " word", "x" * rng.randrange(3)])
        text = start + conversation(rng, rng.randrange(1, 12))
        if rng.random() < 0.3:
            text = "".join(rng.choices(TEXT, k=200)) + text
        for prompt in (text, text + " and so on", text):
            ids = np.frombuffer(model.segments.ids(prompt), np.uint32).tolist()
            assert ids == whole.encode(prompt, add_special_tokens=False).ids
    begin = np.frombuffer(model.begin, np.uint32).tolist()
    assert whole.encode("some text").ids[: len(begin)] == begin
    assert bool(begin) == (kind == "llama3")
    fast = isinstance(model.segments._vocabulary, Tiktoken)
    assert fast == (kind in ("gpt2", "llama3"))


class Counted:
    """A token for each character; what was asked is noted."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ids(self, texts: Sequence[str]) -> list[bytes]:
        self.asked += texts
        return [np.array([ord(sign) for sign in text], np.uint32).tobytes() for text in texts]


def test_the_next_turn_costs_only_its_new_part() -> None:
    vocabulary = Counted()
    segments = Segments(vocabulary, {"<s>": True}, "a b c")
    first = "<s>system" + " word" * 2_000 + "<s>user question<s>assistant\n"
    segments.ids(first)
    vocabulary.asked.clear()
    segments.ids(first + "answer<s>user more<s>assistant\n")
    assert vocabulary.asked == ["<s>assistant\nanswer", "<s>user more"]
    vocabulary.asked.clear()
    segments.ids("<s>system" + " word" * 3_000)
    assert sum(map(len, vocabulary.asked)) < 5 * 1_000 + 2_100


def test_what_is_kept_is_bounded_and_what_cannot_be_cut_is_refused() -> None:
    segments = Segments(Counted(), {"<s>": True}, "a b c", most_bytes=10_000)
    for number in range(1_000):
        segments.ids(f"<s>text {number}")
        assert segments._bytes <= 10_000
    segments.ids("<s>" + "x" * 5_000)
    assert segments._bytes <= 10_000
    assert not any(len(ids) > 10_000 for ids in segments._kept.values())
    with pytest.raises(TooLong):
        segments.ids("x" * 1_000_001)
    assert len(segments.ids("word " * 300_000)) == 4 * 5 * 300_000
