"""Tokenizers of models, from files in Hugging Face's format; the package for it is optional."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers


class TokenizerError(ValueError):
    """A tokenizer cannot be loaded; the text says why and what to do."""


class FileTokenizer:
    """A `tokenizer.json`. Raises TokenizerError."""

    def __init__(self, file: Path) -> None:
        if find_spec("tokenizers") is None:
            raise TokenizerError(
                "the package tokenizers is not installed: pip install 'penstock[tokenizers]'"
            )
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
