"""What usage costs, in whole micro-units of money (1,000,000 micro-units are one unit)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from msgspec import Struct

MICROS = 1_000_000


class PriceError(ValueError):
    """A price or a usage is not possible; the message names the field and what would be right."""


class Usage(Struct, frozen=True):
    """Tokens of one request. ``cached_tokens`` are part of ``input_tokens``, ``reasoning_tokens``
    are part of ``output_tokens``.

    Raises PriceError when a part is larger than its whole, or when a number is negative.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.cached_tokens <= self.input_tokens:
            _refuse("cached_tokens", self.cached_tokens, "input_tokens", self.input_tokens)
        if not 0 <= self.reasoning_tokens <= self.output_tokens:
            _refuse("reasoning_tokens", self.reasoning_tokens, "output_tokens", self.output_tokens)


def _refuse(part: str, given: int, whole: str, most: int) -> NoReturn:
    raise PriceError(f"{part} must be from 0 to {whole} ({most}), got {given}")


MOST: Final = Usage(2**30, 2**30)
"""Upper bound of the usage of any request."""
NOTHING: Final = Usage(0, 0)


class Cost(Protocol):
    """What a request costs: a `Price`, or a `policies.limits.expression.Expression`."""

    def micros(self, usage: Usage) -> int:
        """Whole micro-units, never negative."""
        ...


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-units per million tokens. Raises PriceError when one is negative."""

    input_micros: int
    output_micros: int
    cached_input_micros: int | None = None
    """None: as input."""
    reasoning_micros: int | None = None
    """None: as output."""

    def __post_init__(self) -> None:
        for name in ("input_micros", "output_micros", "cached_input_micros", "reasoning_micros"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise PriceError(f"{name} must not be negative, got {value}")

    def micros(self, usage: Usage) -> int:
        """The cost, summed exactly and rounded once, half to even. So the error of a request is at
        most half a micro-unit, and the errors of many requests cancel out."""
        cached = self.input_micros if self.cached_input_micros is None else self.cached_input_micros
        reasoning = self.output_micros if self.reasoning_micros is None else self.reasoning_micros
        return _half_even(
            (usage.input_tokens - usage.cached_tokens) * self.input_micros
            + usage.cached_tokens * cached
            + (usage.output_tokens - usage.reasoning_tokens) * self.output_micros
            + usage.reasoning_tokens * reasoning
        )


def _half_even(millionths: int) -> int:
    whole, rest = divmod(millionths, MICROS)
    return whole + (2 * rest > MICROS or (2 * rest == MICROS and whole % 2 == 1))
