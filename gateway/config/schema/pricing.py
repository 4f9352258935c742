"""Prices of models and weights of tokens: numbers for each kind of token, or CEL."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final, Self

from pydantic import AfterValidator, model_validator

from gateway.config.schema.fault import refuse
from gateway.config.schema.section import Section
from gateway.config.schema.terms import ModelPattern, Rate
from policies.limits.expression import Expression, ExpressionError, Unit

_CURRENCY: Final = re.compile(r"[A-Z]{3}")


def _currency(value: str) -> str:
    if not _CURRENCY.fullmatch(value):
        raise refuse("a currency's three letters, such as USD")
    return value


def _money(value: str) -> str:
    return _sound(value, Unit.MONEY)


def _tokens(value: str) -> str:
    return _sound(value, Unit.TOKENS)


def _sound(text: str, unit: Unit) -> str:
    try:
        _try(text, unit)
    except ExpressionError as error:
        raise refuse(error.expected, got=error.got, hint=error.hint) from error
    return text


@lru_cache(maxsize=1_024)
def _try(text: str, unit: Unit) -> None:
    """Cached: compiling takes some milliseconds, and many tenants may have the same expression."""
    Expression(text, unit)


MoneyExpression = Annotated[str, AfterValidator(_money)]
TokenExpression = Annotated[str, AfterValidator(_tokens)]


class Weights(Section):
    """How much each token counts in a limit of `weighted_tokens`: four numbers, or `cel` alone.
    The sum is rounded to a whole number of tokens once a request."""

    input: Rate | None = None
    """Of an input token that was not cached. Null: 1."""
    cached_input: Rate | None = None
    """Of an input token that was read from the prefix cache. Null: as `input`."""
    output: Rate | None = None
    """Of an output token. Null: 1."""
    reasoning: Rate | None = None
    """Of an output token spent on reasoning. Null: as `output`."""
    cel: TokenExpression | None = None
    """[CEL expression](#cel) instead of the numbers; its value is a number of tokens."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        numbers = (self.input, self.cached_input, self.output, self.reasoning)
        if self.cel is not None and any(number is not None for number in numbers):
            raise refuse("either `cel` alone, or numbers", got="`cel` beside numbers")
        return self


class ModelPrice(Section):
    """What a model's tokens cost: prices per million tokens, or `cel` alone."""

    model: ModelPattern
    """Pattern of model names as clients ask for them, aliases too: `llama-3-8b`, `llama-*`, `*`.
    The first entry that fits counts; a model that none fits costs nothing."""
    input: Rate | None = None
    """Per million input tokens that were not cached. Required without `cel`."""
    cached_input: Rate | None = None
    """Per million input tokens that were read from the prefix cache. Null: as `input`."""
    output: Rate | None = None
    """Per million output tokens. Required without `cel`."""
    reasoning: Rate | None = None
    """Per million output tokens spent on reasoning. Null: as `output`."""
    cel: MoneyExpression | None = None
    """[CEL expression](#cel) instead of the prices; its value is what the whole request costs, in
    units of the currency."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        numbers = (self.input, self.cached_input, self.output, self.reasoning)
        if self.cel is not None and any(number is not None for number in numbers):
            raise refuse("either `cel` alone, or prices", got="`cel` beside prices")
        if self.cel is None and (self.input is None or self.output is None):
            raise refuse(
                "`input` and `output`, or `cel`",
                hint="output: 0 for a model that makes no output tokens, such as embeddings",
            )
        return self


class Pricing(Section):
    """Prices of models. They give the cost in the usage ledger and in limits of `cost`."""

    currency: Annotated[str, AfterValidator(_currency)] = "USD"
    """Currency of every price and of limits of `cost`; only a label."""
    models: tuple[ModelPrice, ...] = ()
    """Prices by model; the first that fits."""
    weights: Weights = Weights()
    """For limits of `weighted_tokens` that have no weights of their own."""
