"""Model folders with small vocabularies of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.trainers import BpeTrainer

SPECIAL = ["<|bos|>", "<|im_start|>", "<|im_end|>", "<|im|>"]
TEXT = [
    f"{word} {word}s don't {number} {word}_{number}(x);\n"
    for number, word in enumerate(
        ("the gateway counts", "tokens of prompts", "für Übung", "東京タワー", "==== ====") * 20
    )
]
_SPLIT = (
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
)


def gpt2(made: Tokenizer) -> None:
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.normalizer = normalizers.NFC()


def llama3(made: Tokenizer) -> None:
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    made.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )


def spaced(made: Tokenizer) -> None:
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def metaspace(made: Tokenizer) -> None:
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")


def llama2(made: Tokenizer) -> None:
    """Without a pre-tokenizer: tokens may reach over words."""
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )


def greedy(made: Tokenizer) -> None:
    """Special tokens that take the space around them."""
    gpt2(made)


KINDS: dict[str, Callable[[Tokenizer], None]] = {
    one.__name__: one for one in (gpt2, llama3, spaced, metaspace, llama2, greedy)
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def folder(where: Path, kind: str = "gpt2", template: str | None = TEMPLATE) -> Path:
    """A model's folder."""
    made = Tokenizer(models.BPE(unk_token="<|bos|>"))
    KINDS[kind](made)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    if kind == "greedy":
        made.add_special_tokens(
            [AddedToken("<|l|>", lstrip=True), AddedToken("<|r|>", rstrip=True)]
        )
    where.mkdir(parents=True, exist_ok=True)
    made.save(str(where / "tokenizer.json"))
    settings = {"bos_token": {"content": "<|bos|>"}, "eos_token": "<|im_end|>"}
    if template is not None:
        settings["chat_template"] = template
    (where / "tokenizer_config.json").write_text(json.dumps(settings))
    return where
