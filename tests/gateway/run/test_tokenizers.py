"""Exact counts of prompt tokens by a model's own tokenizer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import tokenizers

from gateway.tokenizers.load import TokenizerError, tokenizer_of_file
from picker.prompt.counting import Counting
from picker.prompt.forms import Form, read_prompt
from tests.picker.fleet import chat, decided, end_of, fleet

WORDS = ["[UNK]", "one", "two", "three", "user", "content"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tokenizer that counts words."""
    model = tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, "[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_it_counts_all_texts(file: Path) -> None:
    assert tokenizer_of_file(file).count(["one two", "three"]) == 3


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        tokenizer_of_file(broken)


async def test_only_the_models_that_it_is_for(file: Path) -> None:
    counting = Counting([("small-*", tokenizer_of_file(file))])
    prompt = read_prompt(Form.COMPLETIONS, {"prompt": ["one two", "three"]})
    assert await counting.tokens("small-1", prompt) == 3
    assert await counting.tokens("large", prompt) is None


async def test_requests_are_estimated_by_it_and_it_is_calibrated(file: Path) -> None:
    made = fleet(counting=Counting([("*", tokenizer_of_file(file))]))
    text = " ".join(["one"] * 1_000)
    first = await decided(made, chat(text))
    at_first = made.picker.pools.states["main"].view.in_flight_kv_tokens.sum() - 256
    assert 1_000 <= at_first < 1_020  # by bytes it would be about the same as 4,000 / 4
    made.picker.complete(end_of(first, input_tokens=2_000))
    for _ in range(50):  # the chat template of this model doubles it
        decision = await decided(made, chat(text))
        made.picker.complete(end_of(decision, input_tokens=2_000))
    await decided(made, chat(text))
    assert 1_900 < made.picker.pools.states["main"].view.in_flight_kv_tokens.sum() - 256 < 2_100


async def test_the_event_loop_goes_on_while_it_counts(file: Path) -> None:
    counting = Counting([("*", tokenizer_of_file(file))])
    prompt = read_prompt(Form.COMPLETIONS, {"prompt": "one two " * 50_000})
    asking = asyncio.create_task(counting.tokens("m", prompt))
    turns = 0
    while not asking.done():
        turns += 1
        await asyncio.sleep(0)
    assert await asking == 100_000
    assert turns > 10
