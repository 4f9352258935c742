"""Tokenizers of models, for exact counts: tiktoken where it counts as the model does, since it is
several times faster, else Hugging Face's library. Both packages are optional."""

from __future__ import annotations

import base64
import binascii
import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from gateway.tokenizers.byte_pairs import BytePairs, NotBytePairs, read_byte_pairs
from picker.prompt.counting import Tokenizer
from picker.prompt.token_blocks import TOKEN_BYTES

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

log = logging.getLogger(__name__)

_INSTALL: Final = "pip install 'penstock[tokenizers]'"
_PIECE_CHARS: Final = 100_000
"""Longer texts are counted in pieces, each of which may count a token or two more."""
MOST_CHARS_AT_ONCE: Final = 1_000_000
"""A text of which ids are wanted must not be cut, and may be as long as that."""
_CUT_CHARS: Final = 1_000
_NORMALIZED_CHARS: Final = 512
"""Text is normalized in pieces: a run of combining marks takes the square of its length, and Python
lets no other thread run meanwhile."""
_CL100K_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is split for a `*.tiktoken` file, which does not say it."""
_SAMPLE: Final = (
    "The quick brown fox (aged 12345) can't jump; it's 1.5 m high!\n\n\tdef f(x):\n        return"
    " x ** 2  # Übung 東京タワー — naïve Привет 😀 \r\n======== AAAAAAAAA http://example.org/?a=b&c=d"
)


class TokenizerError(ValueError):
    """A tokenizer cannot be loaded; the text says why and what to do."""


def tokenizer_of(file: Path | None, encoding: str | None) -> Tokenizer:
    """Of a file, else of one of tiktoken's own encodings. Raises TokenizerError."""
    return tokenizer_of_file(file) if file is not None else tokenizer_of_encoding(encoding or "")


def tokenizer_of_file(file: Path) -> Tokenizer:
    """Of a `tokenizer.json` or a `*.tiktoken`. Raises TokenizerError."""
    if file.suffix == ".tiktoken":
        return tiktoken_of(BytePairs(_CL100K_PATTERN, _tiktoken_ranks(file)))
    try:
        document = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise TokenizerError(f"{file} is no tokenizer.json: {error}") from error
    try:
        fast = tiktoken_of(read_byte_pairs(document)) if find_spec("tiktoken") is not None else None
    except (NotBytePairs, TokenizerError) as error:
        log.info("%s is counted by the package tokenizers: %s", file, error)
        fast = None
    if fast is not None and find_spec("tokenizers") is None:
        return fast
    exact = HuggingFace(file)
    if fast is not None and fast.count([_SAMPLE]) == exact.count([_SAMPLE]):
        return fast
    return exact


def tokenizer_of_encoding(name: str) -> Tokenizer:
    """One of tiktoken's own, such as ``o200k_base``. Raises TokenizerError."""
    _require_tiktoken()
    import tiktoken

    try:
        return Tiktoken(tiktoken.get_encoding(name))
    except ValueError as error:
        known = ", ".join(tiktoken.list_encoding_names())
        raise TokenizerError(f"tiktoken has no encoding {name!r}, but {known}") from error
    except Exception as error:  # the package downloads it with whatever it finds
        raise TokenizerError(
            f"tiktoken cannot download {name}: {error}. Put it into a folder that"
            " TIKTOKEN_CACHE_DIR names, or use a file"
        ) from error


class HuggingFace:
    """A `tokenizer.json`, by the package tokenizers. Raises TokenizerError."""

    def __init__(self, file: Path) -> None:
        if find_spec("tokenizers") is None:
            raise TokenizerError(f"the package tokenizers is not installed: {_INSTALL}")
        import tokenizers

        try:
            self._tokenizer: tokenizers.Tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises bare Exception
            raise TokenizerError(f"{file} is no tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, texts: Sequence[str]) -> int:
        """See `picker.prompt.counting.Tokenizer`. Lets other threads run meanwhile."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)
        return sum(len(one) for one in encoded)

    def ids(self, texts: Sequence[str]) -> list[bytes]:
        """See `Vocabulary`."""
        return [self._ids_of(text) for text in texts]  # at once it would take all cores

    def _ids_of(self, text: str) -> bytes:
        try:
            (encoded,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        except Exception as error:  # the package raises bare Exception
            raise TokenizerError(f"a text cannot be tokenized: {error}") from error
        return np.array(encoded.ids, np.uint32).tobytes()

    def ends(self) -> tuple[bytes, bytes]:
        """Ids that begin and end a prompt. Raises TokenizerError where they depend on it."""
        (bare,) = self.ids(["a"])
        whole = np.array(self._tokenizer.encode("a").ids, np.uint32).tobytes()
        at = whole.find(bare)
        if at % TOKEN_BYTES:
            raise TokenizerError("its prompts have no fixed beginning")
        return whole[:at], whole[at + len(bare) :]

    @property
    def tokens(self) -> Mapping[str, int]:
        """Ids by the vocabulary's own name of a token."""
        return self._tokenizer.get_vocab(with_added_tokens=False)

    @property
    def found(self) -> Mapping[str, bool]:
        """Tokens that are found in text as they stand, and whether what is before one and what
        begins with it are tokenized independently of each other."""
        normalizes = self._tokenizer.normalizer is not None
        return {
            token.content: not (token.lstrip or token.single_word or token.normalized & normalizes)
            for token in self._tokenizer.get_added_tokens_decoder().values()
        }


class Tiktoken:
    """A byte-level BPE vocabulary, by the package tiktoken."""

    def __init__(
        self,
        encoding: tiktoken.Encoding,
        *,
        special: AbstractSet[str] = frozenset(),
        nfc: bool = False,
        added: int = 0,
        ids: Sequence[int] = (),
    ) -> None:
        """``special``, ``nfc``, ``added``: see `BytePairs`. ``ids``: by the encoding's own."""
        self._encoding, self._special = encoding, set(special)
        self._nfc, self._added = nfc, added
        self._ids = np.array(ids, np.uint32)

    @property
    def has_ids(self) -> bool:
        """The ids of all tokens are known."""
        return self._ids.size > 0

    def ids(self, texts: Sequence[str]) -> list[bytes]:
        """See `Vocabulary`. Texts that are short enough not to be cut."""
        return [self._ids_of(text) for text in texts]

    def _ids_of(self, text: str) -> bytes:
        if self._nfc and not text.isascii():
            text = _nfc(text)
        ranks = self._encoding.encode_to_numpy(
            text, allowed_special=self._special, disallowed_special=()
        )
        return self._ids[ranks].tobytes()

    def count(self, texts: Sequence[str]) -> int:
        """See `picker.prompt.counting.Tokenizer`. Lets other threads run meanwhile."""
        return sum(self._one(text) for text in texts)

    def _one(self, text: str) -> int:
        if self._nfc and not text.isascii():
            text = _nfc(text)
        tokens = self._added
        for piece in _pieces(text):
            tokens += len(
                self._encoding.encode(piece, allowed_special=self._special, disallowed_special=())
                if self._special
                else self._encoding.encode_ordinary(piece)
            )
        return tokens


def _nfc(text: str) -> str:
    pieces = _pieces(text, _NORMALIZED_CHARS, _NORMALIZED_CHARS // 2)
    return "".join(unicodedata.normalize("NFC", piece) for piece in pieces)


def _pieces(
    text: str, most_chars: int = _PIECE_CHARS, cut_chars: int = _CUT_CHARS
) -> Iterator[str]:
    """Cut before a space, if there is one near: words begin with it."""
    start = 0
    while len(text) - start > most_chars:
        most = start + most_chars
        stop = text.rfind(" ", most - cut_chars, most)
        stop = most if stop <= start else stop
        yield text[start:stop]
        start = stop
    yield text[start:]


def tiktoken_of(pairs: BytePairs) -> Tiktoken:
    """Of a vocabulary. Raises TokenizerError."""
    _require_tiktoken()
    import tiktoken

    highest = max(pairs.ranks.values())
    try:
        encoding = tiktoken.Encoding(
            "vocabulary",
            pat_str=pairs.pattern,
            mergeable_ranks=dict(pairs.ranks),
            special_tokens={token: highest + 1 + n for n, token in enumerate(pairs.special)},
        )
    except Exception as error:  # the package raises what its own parts raise
        raise TokenizerError(f"tiktoken cannot use the vocabulary: {error}") from error
    ids = [*pairs.ids, *pairs.special.values()] if pairs.ids else []
    return Tiktoken(encoding, special=set(pairs.special), nfc=pairs.nfc, added=pairs.added, ids=ids)


def _require_tiktoken() -> None:
    if find_spec("tiktoken") is None:
        raise TokenizerError(f"the package tiktoken is not installed: {_INSTALL}")


def _tiktoken_ranks(file: Path) -> Mapping[bytes, int]:
    """Lines of a token in base64 and its rank."""
    try:
        lines = file.read_bytes().splitlines()
        pairs = (line.split() for line in lines if line)
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (OSError, ValueError, binascii.Error) as error:
        raise TokenizerError(f"{file} is no vocabulary of tiktoken: {error}") from error
    if not all(bytes([byte]) in ranks for byte in range(256)):
        raise TokenizerError(f"{file} is no vocabulary of tiktoken: it lacks single bytes")
    return ranks
