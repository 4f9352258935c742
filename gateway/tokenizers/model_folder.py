"""A model's folder, as it comes from Hugging Face: tokenizer and chat template, as an engine would
use them."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import orjson

from gateway.tokenizers.byte_pairs import NotBytePairs, read_byte_pairs
from gateway.tokenizers.chat_template import ChatTemplate
from gateway.tokenizers.conversation import ContentFormat
from gateway.tokenizers.load import HuggingFace, TokenizerError, tiktoken_of
from gateway.tokenizers.segments import Segments, Vocabulary

log = logging.getLogger(__name__)

_OWN_RENDERING: Final = frozenset(
    {
        *("gpt_oss", "deepseek_v32", "deepseek_v4", "kimi_k3", "inkling"),
        *("cohere2_vision", "command_a"),
    }
)
"""Kinds of models that vLLM renders prompts of by a program of its own."""
_MISTRAL: Final = ("tekken.json", "params.json")
"""Files of a model that vLLM takes Mistral's own tokenizer for."""
_SAMPLE_TOKENS: Final = 4_000
_MOST_FILE_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine was started with that prompts depend on."""

    chat_template: str | None = None
    """A file, or the template itself; None: the model's."""
    content_format: ContentFormat | None = None
    defaults: str = ""
    """Variables of the template that requests do not set: a JSON object, or "" for none."""


@dataclass(frozen=True, slots=True)
class Model:
    """What makes token ids of prompts."""

    segments: Segments
    template: ChatTemplate | None
    """None: it has none, so it takes completions only."""
    begin: bytes
    """Ids that begin every prompt with special tokens."""
    end: bytes


def read_model(folder: Path, options: EngineOptions) -> Model:
    """Takes a second or two. Raises TokenizerError with what is missing."""
    if find_spec("jinja2") is None:
        raise TokenizerError(
            "the package jinja2 is not installed: pip install penstock[tokenizers]"
        )
    kind = _json(folder / "config.json").get("model_type")
    if kind in _OWN_RENDERING or any((folder / name).exists() for name in _MISTRAL):
        raise TokenizerError(f"{folder}: prompts of this kind of model are made by its engine only")
    file = folder / "tokenizer.json"
    exact = HuggingFace(file)
    sample = _sample(exact.tokens)
    found = exact.found
    begin, end = exact.ends()
    return Model(
        Segments(_faster(file, exact, sample) or exact, found, sample),
        _template(folder, options),
        begin,
        end,
    )


def _faster(file: Path, exact: HuggingFace, sample: str) -> Vocabulary | None:
    """tiktoken, where it makes the same ids of a sample."""
    if find_spec("tiktoken") is None:
        return None
    try:
        fast = tiktoken_of(read_byte_pairs(orjson.loads(file.read_bytes())))
        if fast.has_ids and fast.ids([sample]) == exact.ids([sample]):
            return fast
    except (NotBytePairs, TokenizerError, orjson.JSONDecodeError, OSError) as error:
        log.info("%s: prompts are tokenized by the package tokenizers: %s", file, error)
    return None


def _sample(tokens: Mapping[str, int]) -> str:
    """Text in which much of a vocabulary occurs, the same every time: words, and what is none."""
    rng = random.Random(1)  # noqa: S311 - a sample
    names = sorted(tokens)
    chosen = rng.sample(names, min(len(names), _SAMPLE_TOKENS))
    texts = [name.replace("\u0120", " ").replace("\u2581", " ") for name in chosen]
    words = [text.strip() for text in texts if text.strip().isalpha() and text.isascii()]
    return " ".join(words) + "\n\n" + "".join(texts) + "\n 12345  x=(1.5e-3)\t\n\n  \u00fcber 東京"


def _template(folder: Path, options: EngineOptions) -> ChatTemplate | None:
    settings = _json(folder / "tokenizer_config.json")
    named = dict(_templates(folder, settings))
    given = options.chat_template
    if given is not None:
        named = {"default": _given(given)}
    source = named.get("default")
    if source is None:
        return None
    made = ChatTemplate(
        source,
        named.get("tool_use"),
        dict(_special_tokens(folder, settings)),
        _object(options.defaults),
        options.content_format,
    )
    try:
        made.check()
    except ValueError as error:
        raise TokenizerError(f"{folder}: {error}") from error
    return made


def _given(template: str) -> str:
    """A file's contents, or the template itself where it is no name of a file."""
    if any(sign in template for sign in "{}\n"):
        return template
    return _text(Path(template))


def _templates(folder: Path, settings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """By name, later ones in place of earlier ones."""
    for said in (_json(folder / "chat_template.json"), settings):
        match said.get("chat_template"):
            case str(source):
                yield "default", source
            case list(several):
                for one in several:
                    match one:
                        case {"name": str(name), "template": str(source)}:
                            yield name, source
    for file in (folder / "additional_chat_templates").glob("*.jinja"):
        yield file.stem, _text(file)
    file = folder / "chat_template.jinja"
    if file.exists():
        yield "default", _text(file)


def _special_tokens(folder: Path, settings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for said in (_json(folder / "special_tokens_map.json"), settings):
        for name, token in said.items():
            if name.endswith("_token"):
                match token:
                    case str(content) | {"content": str(content)}:
                        yield name, content


def _object(text: str) -> Mapping[str, object]:
    """Raises TokenizerError."""
    try:
        read = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise TokenizerError(f"the default variables of the chat template: {error}") from error
    return read if isinstance(read, dict) else {}


def _json(file: Path) -> Mapping[str, object]:
    """Empty where there is no such file. Raises TokenizerError for one that is not JSON."""
    if not file.exists():
        return {}
    try:
        read = orjson.loads(_text(file))
    except orjson.JSONDecodeError as error:
        raise TokenizerError(f"{file}: {error}") from error
    return read if isinstance(read, dict) else {}


def _text(file: Path) -> str:
    """Raises TokenizerError."""
    try:
        if file.stat().st_size > _MOST_FILE_BYTES:
            raise TokenizerError(f"{file} is too large")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file}: {error}") from error
