"""The measure of a prompt's text that tokens are estimated from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from picker.prompt.forms import Prompt

_DIGITS: Final = b"0123456789"
_EXTRA: Final = 3
"""A digit counts as four bytes: many vocabularies have a token for each."""
_FEW: Final = 8
_SHORT_BYTES: Final = 4_096
_WINDOW_BYTES: Final = 1 << 18
_ZERO: Final = np.uint8(ord("0"))


def text_units(prompt: Prompt) -> int:
    """Bytes of the prompt's text, digits as four; 0 for token ids."""
    digits = sum(map(_digits, texts_of(prompt)))
    if prompt.text_bytes and prompt.shared:
        digits += _digits(prompt.shared) * len(prompt.sequences)
    return prompt.text_bytes + _EXTRA * digits


def texts_of(prompt: Prompt) -> Sequence[bytes]:
    """The prompt's texts without what they share; none for token ids."""
    return prompt.sequences if prompt.text_bytes else ()


def countable(prompt: Prompt) -> Sequence[bytes]:
    """Texts that an engine can be asked to count, a few, without what they share."""
    if not prompt.text_bytes:
        return ()
    few = len(prompt.sequences) <= _FEW
    return prompt.sequences if few else (b"\n".join(prompt.sequences),)


def _digits(text: bytes) -> int:
    if len(text) < _SHORT_BYTES:
        return len(text) - len(text.translate(None, _DIGITS))
    signs = np.frombuffer(text, np.uint8)
    windows = (signs[at : at + _WINDOW_BYTES] for at in range(0, len(text), _WINDOW_BYTES))
    # Below "0", the difference wraps round.
    return sum(int(np.count_nonzero(window - _ZERO < len(_DIGITS))) for window in windows)
