"""Texts that match a regular expression."""

import random
import re
import string
import warnings
from collections.abc import Sequence
from typing import Final

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_constants as op
    import sre_parse

_MORE: Final = 3
"""Repetitions beyond the least, at most."""
_TRIES: Final = 50
_LETTERS: Final = string.ascii_letters + string.digits + " _-"
_SETS: Final = {
    op.CATEGORY_DIGIT: string.digits,
    op.CATEGORY_WORD: string.ascii_letters + string.digits + "_",
    op.CATEGORY_SPACE: " ",
    op.CATEGORY_NOT_DIGIT: string.ascii_letters,
    op.CATEGORY_NOT_WORD: " -",
    op.CATEGORY_NOT_SPACE: string.ascii_letters + string.digits,
}


class UnwritableError(ValueError):
    """Nothing is written for such a pattern or schema."""


def matching(pattern: str, rng: random.Random) -> str:
    """A text in which the pattern is found. Raises UnwritableError for one that is no regular
    expression, or uses what is not generated here: looking around, for example."""
    try:
        compiled = re.compile(pattern)
        parsed = sre_parse.parse(pattern)
    except (re.error, RecursionError) as error:
        raise UnwritableError(f"{pattern!r} is no regular expression: {error}") from error
    for _ in range(_TRIES):
        text = _Writer(rng).sequence(parsed)
        if compiled.search(text):
            return text
    raise UnwritableError(f"no text is generated for the regular expression {pattern!r}")


class _Writer:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._groups: dict[int, str] = {}

    def sequence(self, parts: sre_parse.SubPattern) -> str:
        return "".join(self._part(kind, value) for kind, value in parts.data)

    def _part(self, kind: object, value: object) -> str:
        if kind in (op.LITERAL, op.NOT_LITERAL):
            assert isinstance(value, int)
            return chr(value) if kind is op.LITERAL else self._other(chr(value))
        if kind is op.ANY:
            return self._rng.choice(_LETTERS)
        if kind is op.AT:
            return ""
        if kind is op.IN:
            assert isinstance(value, list)
            return self._one_of(value)
        if kind is op.GROUPREF:
            assert isinstance(value, int)
            return self._groups.get(value, "")
        if isinstance(value, sre_parse.SubPattern):  # an atomic group
            return self.sequence(value)
        if isinstance(value, tuple):
            return self._nested(kind, value)
        raise UnwritableError(f"no text is generated for {kind} in a regular expression")

    def _nested(self, kind: object, value: tuple[object, ...]) -> str:
        *_, inner = value
        if kind is op.BRANCH and isinstance(inner, list):
            return self.sequence(self._rng.choice(inner))
        if not isinstance(inner, sre_parse.SubPattern):
            raise UnwritableError(f"no text is generated for {kind} in a regular expression")
        if kind is op.SUBPATTERN:
            text = self.sequence(inner)
            if isinstance(value[0], int):
                self._groups[value[0]] = text
            return text
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most = value[0], value[1]
            assert isinstance(least, int)
            assert isinstance(most, int)
            times = self._rng.randint(least, min(most, least + _MORE))
            return "".join(self.sequence(inner) for _ in range(times))
        raise UnwritableError(f"no text is generated for {kind} in a regular expression")

    def _one_of(self, items: Sequence[tuple[object, object]]) -> str:
        characters: set[str] = set()
        for kind, value in items:
            if kind is op.LITERAL and isinstance(value, int):
                characters.add(chr(value))
            elif kind is op.RANGE and isinstance(value, tuple):
                first, last = value
                characters |= {chr(code) for code in range(first, min(last, first + 255) + 1)}
            elif kind is op.CATEGORY:
                characters |= set(next(text for one, text in _SETS.items() if one is value))
        if items and items[0][0] is op.NEGATE:
            characters = set(_LETTERS + string.punctuation) - characters
        if not characters:
            raise UnwritableError("no text is generated for an empty set in a regular expression")
        return self._rng.choice(sorted(characters))

    def _other(self, character: str) -> str:
        return self._rng.choice([one for one in _LETTERS if one != character])
