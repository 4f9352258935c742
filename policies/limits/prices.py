"""What usage costs, in whole micro-units of money (1,000,000 micro-units are one unit)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, Protocol

MICROS = 1_000_000


class PriceError(ValueError):
    """A price or a usage cannot be; the message names the field and what would be right."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. ``cached_tokens`` are part of the input, ``reasoning_tokens`` of the
    output. Raises PriceError when a part exceeds its whole or anything is negative."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        for part, whole in (
            ("cached_tokens", "input_tokens"),
            ("reasoning_tokens", "output_tokens"),
        ):
            if not 0 <= getattr(self, part) <= getattr(self, whole):
                raise PriceError(
                    f"{part} must be from 0 to {whole} ({getattr(self, whole)}),"
                    f" got {getattr(self, part)}"
                )


MOST: Final = Usage(2**30, 2**30)
"""No request can have used more."""
NOTHING: Final = Usage(0, 0)


class Cost(Protocol):
    """What a request costs: a price here, an expression elsewhere."""

    def micros(self, usage: Usage) -> int:
        """Whole micro-units, not negative."""
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

    @classmethod
    def per_million(
        cls,
        *,
        input_: str,
        output: str,
        cached_input: str | None = None,
        reasoning: str | None = None,
    ) -> Price:
        """From decimal numbers in units of money per million tokens, such as ``"0.15"``.

        Raises PriceError for anything else, or for more than six places.
        """
        return cls(
            _micros("input", input_),
            _micros("output", output),
            None if cached_input is None else _micros("cached_input", cached_input),
            None if reasoning is None else _micros("reasoning", reasoning),
        )

    def micros(self, usage: Usage) -> int:
        """The cost, summed exactly and rounded once, half to even: off by at most half a
        micro-unit a request, without bias."""
        cached = self.input_micros if self.cached_input_micros is None else self.cached_input_micros
        reasoning = self.output_micros if self.reasoning_micros is None else self.reasoning_micros
        return _half_even(
            (usage.input_tokens - usage.cached_tokens) * self.input_micros
            + usage.cached_tokens * cached
            + (usage.output_tokens - usage.reasoning_tokens) * self.output_micros
            + usage.reasoning_tokens * reasoning
        )


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices by model."""

    prices: Mapping[str, Cost]
    default: Cost | None = None

    def micros(self, model: str, usage: Usage) -> int:
        """The cost of a request. Raises PriceError for a model without a price and no default."""
        cost = self.prices.get(model, self.default)
        if cost is None:
            raise PriceError(
                f"no price for model {model!r}: add it to the price table, or a default"
            )
        return cost.micros(usage)


def _half_even(millionths: int) -> int:
    whole, rest = divmod(millionths, MICROS)
    return whole + (2 * rest > MICROS or (2 * rest == MICROS and whole % 2 == 1))


def _micros(name: str, text: str) -> int:
    try:
        micros = Decimal(text) * MICROS
        whole = int(micros)
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise PriceError(f"{name} must be a decimal number such as '0.15', got {text!r}") from error
    if whole != micros:
        raise PriceError(f"{name} may have six places at most, got {text!r}")
    return whole
