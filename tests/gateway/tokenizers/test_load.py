"""Tokenizers of every format: tiktoken counts as Hugging Face's library does, or does not count."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from gateway.tokenizers.byte_pairs import NotBytePairs, read_byte_pairs
from gateway.tokenizers.load import (
    HuggingFace,
    Tiktoken,
    TokenizerError,
    tokenizer_of_encoding,
    tokenizer_of_file,
)

SPLIT = (
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
)
BOS = "<|bos|>"
TEXT = [f"{word} {word}s don't {number} {word}_{number}(x);\n" for number, word in enumerate(
    ("the gateway counts", "tokens of prompts", "für Übung", "東京タワー", "==== ====") * 20
)]  # fmt: skip
Change = Callable[[Tokenizer], None]


def plain(made: Tokenizer) -> None:
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def llama(made: Tokenizer) -> None:
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])


def saved(folder: Path, change: Change) -> Path:
    """A byte-level BPE of a few hundred tokens, with a difference."""
    made = Tokenizer(models.BPE())
    change(made)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, BpeTrainer(vocab_size=600, special_tokens=[BOS], initial_alphabet=alphabet)
    )
    if change is llama:
        template = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
        made.post_processor = template
    if change is plain:
        made.normalizer = normalizers.NFC()
    file = folder / "tokenizer.json"
    made.save(str(file))
    return file


@pytest.mark.parametrize("change", [plain, llama])
def test_tiktoken_counts_as_the_library_does(tmp_path: Path, change: Change) -> None:
    file = saved(tmp_path, change)
    fast, exact = tokenizer_of_file(file), HuggingFace(file)
    assert isinstance(fast, Tiktoken)
    rng = random.Random(1)
    odd = ["".join(chr(rng.randrange(32, 0x3000)) for _ in range(500)) for _ in range(10)]
    nfd = "U\u0308bung e\u0301"
    for text in (*TEXT[:10], *odd, "=" * 999, "1" * 99, f"a{BOS}b", "", nfd, "a\r\n \n b"):
        assert fast.count([text]) == exact.count([text]), text
    assert fast.count(TEXT) == exact.count(TEXT)
    long = "".join(TEXT) * 60
    assert fast.count([long]) == pytest.approx(exact.count([long]), abs=2 * len(long) / 100_000)


def test_marks_without_end_are_counted_in_a_moment(tmp_path: Path) -> None:
    """Normalized at once they would keep Python's lock for minutes."""
    fast = tokenizer_of_file(saved(tmp_path, plain))
    marks = "\u0301\u0316" * 200_000
    assert fast.count(["a" + marks]) > len(marks)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.ByteLevel(True)),
    ],
)
def test_what_tiktoken_cannot_count_the_library_counts(tmp_path: Path, change: Change) -> None:
    assert isinstance(tokenizer_of_file(saved(tmp_path, change)), HuggingFace)


def test_a_vocabulary_with_other_rules_than_it_seems_is_left_to_the_library(tmp_path: Path) -> None:
    file = saved(tmp_path, plain)
    document = json.loads(file.read_text())
    document["model"]["merges"].reverse()
    assert read_byte_pairs(document).ranks != read_byte_pairs(json.loads(file.read_text())).ranks
    changed: tuple[object, ...] = (
        {**document, "normalizer": {"type": "Lowercase"}},
        {**document, "post_processor": {"type": "BertProcessing"}},
        {**document, "model": {**document["model"], "byte_fallback": True}},
        {**document, "model": {**document["model"], "merges": [["≡", "a"]]}},
        {**document, "model": {"type": "WordLevel"}},
        [],
    )
    for broken in changed:
        with pytest.raises(NotBytePairs):
            read_byte_pairs(broken)


def test_vocabularies_of_tiktoken(tmp_path: Path) -> None:
    file = tmp_path / "some.tiktoken"
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"abab"]
    file.write_bytes(
        b"\n".join(base64.b64encode(token) + b" %d" % n for n, token in enumerate(tokens))
    )
    assert tokenizer_of_file(file).count(["abab", "abc"]) == 3
    file.write_text("no base64")
    with pytest.raises(TokenizerError, match="no vocabulary of tiktoken"):
        tokenizer_of_file(file)
    file.write_bytes(base64.b64encode(b"a") + b" 0")
    with pytest.raises(TokenizerError, match="lacks single bytes"):
        tokenizer_of_file(file)


def test_an_unknown_encoding_is_refused_with_those_there_are() -> None:
    with pytest.raises(TokenizerError, match="o200k_base"):
        tokenizer_of_encoding("nonesuch")
