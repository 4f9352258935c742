"""Byte-level BPE vocabularies in Hugging Face's `tokenizer.json`, as tiktoken takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

GPT2_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How the ByteLevel pre-tokenizer splits text (GPT-2)."""


class NotBytePairs(ValueError):  # noqa: N818 - a fact about a file
    """The file is of another kind; the text says which."""


@dataclass(frozen=True, slots=True)
class BytePairs:
    """A vocabulary."""

    pattern: str
    """Regular expression of the pieces that text is split into first."""
    ranks: Mapping[bytes, int]
    """Lower ones are merged first."""
    special: Mapping[str, int] = field(default_factory=dict)
    """Tokens that are found in text as they stand, and their ids."""
    nfc: bool = False
    """Text is normalized to Unicode's NFC first."""
    added: int = 0
    """Tokens put before and after each text."""
    ids: Sequence[int] = ()
    """By rank: the token's id. Empty: some token has none."""


def read_byte_pairs(document: object) -> BytePairs:
    """From a parsed `tokenizer.json`. Raises NotBytePairs for one that tiktoken cannot count as it
    does."""
    if not isinstance(document, dict):
        raise NotBytePairs("no JSON object")
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise NotBytePairs("no BPE vocabulary")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise NotBytePairs("no merges")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise NotBytePairs(f"model.{key} is set")
    ranks, ids = _ranks(vocabulary, merges)
    return BytePairs(
        _pattern(document.get("pre_tokenizer")),
        ranks,
        _special(document.get("added_tokens")),
        _is_nfc(document.get("normalizer")),
        _added(document.get("post_processor")),
        ids,
    )


def _pattern(splitter: object) -> str:
    match splitter:
        case {"type": "ByteLevel", **rest} if not rest.get("add_prefix_space"):
            if rest.get("use_regex", True):
                return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": str(pattern)},
                    "behavior": "Isolated",
                    **split,
                },
                {"type": "ByteLevel", "use_regex": False, **rest},
            ],
        } if not rest.get("add_prefix_space") and not split.get("invert"):
            return pattern
    raise NotBytePairs("another way to split text")


def _ranks(
    vocabulary: Mapping[object, object], merges: list[object]
) -> tuple[dict[bytes, int], list[int]]:
    """Ranks by token, and ids by rank."""
    byte_of = _bytes_of_characters()
    if not all(isinstance(token, str) for token in vocabulary):
        raise NotBytePairs("tokens that are no text")
    ranks = {bytes([byte]): byte for byte in byte_of.values()}
    signs_of = {byte: sign for sign, byte in byte_of.items()}
    names = [signs_of[byte] for byte in range(0x100)]
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        match parts:
            case [str(left), str(right)]:
                signs = left + right
            case _:
                raise NotBytePairs("merges that are not of two tokens")
        try:
            token = bytes(byte_of[sign] for sign in signs)
        except KeyError as error:
            raise NotBytePairs(f"merges that are not of bytes: {error}") from error
        if token not in ranks:
            ranks[token] = len(ranks)
            names.append(signs)
    ids = [vocabulary.get(name) for name in names]
    return ranks, [one for one in ids if isinstance(one, int)] if None not in ids else []


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2 writes each byte as a character that can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    result = {chr(byte): byte for byte in seen}
    hidden = (byte for byte in range(0x100) if byte not in set(seen))
    result.update({chr(0x100 + n): byte for n, byte in enumerate(hidden)})
    return result


def _special(added: object) -> dict[str, int]:
    special = {}
    for token in added if isinstance(added, list) else ():
        match token:
            case {"content": str(content), "id": int(number), **flags} if content:
                if any(flags.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
                    raise NotBytePairs(f"added token {content!r} takes what is around it")
                special[content] = number
    return special


def _is_nfc(normalizer: object) -> bool:
    match normalizer:
        case None:
            return False
        case {"type": "NFC"} | {"type": "Sequence", "normalizers": [{"type": "NFC"}]}:
            return True
        case {"type": "Sequence", "normalizers": []}:
            return False
    raise NotBytePairs("a normalizer other than NFC")


def _added(processor: object) -> int:
    match processor:
        case None | {"type": "ByteLevel"}:
            return 0
        case {"type": "TemplateProcessing", "single": list(parts)}:
            return sum(isinstance(part, dict) and "SpecialToken" in part for part in parts)
        case {"type": "Sequence", "processors": list(processors)}:
            return sum(map(_added, processors))
    raise NotBytePairs("another post-processor")
