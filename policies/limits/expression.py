"""The cost of a request as a CEL expression over its token counts (https://cel.dev).

An expression is tried on many usages when it is compiled, so that the operator learns at once what
is wrong with it: syntax, unknown names, int mixed with double, results that are negative, not a
number or not finite. For every whole number in it, usages on both sides of the number are tried, so
that all branches of tiered prices run.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import product
from typing import TYPE_CHECKING, Final, TypeGuard

from policies.limits.prices import MICROS, Usage
from policies.limits.types import MAX_AMOUNT

if TYPE_CHECKING:
    import cel

VARIABLES: Final = (
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
)
"""Whole numbers of tokens. Cached ones are part of the input, reasoning ones part of the output;
the total is input and output."""
FUNCTIONS: Final = ("double", "int", "max", "min", "uint")

_TEXT: Final = 2_000
_OURS: Final[dict[str, object]] = {"max": max, "min": min}
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_PARSE_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)")
_UNEXPECTED: Final = re.compile(
    r"(mismatched|extraneous) input|no viable alternative at input|token recognition error at:"
)
_WHOLE: Final = re.compile(r"(?<![\w.])\d{1,8}(?![\w.])")
_TRIED: Final = (0, 1, 7, 1_000, 1_000_000)
_TIERS: Final = 8


class Unit(enum.Enum):
    """The unit of an expression's value."""

    MONEY = "units of the currency"
    TOKENS = "tokens"


class ExpressionError(ValueError):
    """An expression that cannot be used. It has the parts of a problem of the configuration."""

    def __init__(self, expected: str, got: str, hint: str | None = None) -> None:
        self.expected = expected
        self.got = got
        self.hint = hint
        super().__init__(f"expected {expected}, got {got}" + (f" ({hint})" if hint else ""))


class Expression:
    """A `Cost` from CEL. Two of the same text and unit are equal."""

    __slots__ = ("_on_failure", "_program", "failures", "text", "unit")

    def __init__(
        self, text: str, unit: Unit, *, on_failure: Callable[[str], None] | None = None
    ) -> None:
        """Compile and try it. Raises ExpressionError.

        ``on_failure`` is called with a text for every evaluation of `micros` that fails.
        """
        self.text = text
        self.unit = unit
        self.failures = 0
        """Evaluations of `micros` without a sound value; only grows."""
        self._on_failure = on_failure
        self._program = _compiled(text)
        for usage in _samples(text):
            self._try(usage)

    def micros(self, usage: Usage) -> int:
        """Whole micro-units of money or, for `Unit.TOKENS`, whole tokens: rounded half to even, at
        most MAX_AMOUNT.

        0 where the expression fails, or its value is negative or not finite: the request is then
        free rather than lost, `failures` counts it and ``on_failure`` is called. That happens only
        for usages that were not tried when the expression was compiled.
        """
        try:
            value = self._value(usage)
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            return self._failed(usage, _plain(error))
        if not _is_sound(value):
            return self._failed(usage, f"the value {value!r}")
        return self._whole(value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Expression):
            return NotImplemented
        return (self.text, self.unit) == (other.text, other.unit)

    def __hash__(self) -> int:
        return hash((self.text, self.unit))

    def __repr__(self) -> str:
        return f"Expression({self.text!r}, {self.unit})"

    def _failed(self, usage: Usage, what: str) -> int:
        self.failures += 1
        if self._on_failure is not None:
            self._on_failure(f"{self.text!r} gave {what} for {_shown(usage)}: counted as 0")
        return 0

    def _value(self, usage: Usage) -> object:
        return self._program.execute(_variables(usage) | _OURS)

    def _whole(self, value: float) -> int:
        exact = Decimal(repr(value))  # of the decimal form: 5e-07 is half a micro-unit
        if self.unit is Unit.MONEY:
            exact = exact * MICROS if exact < MAX_AMOUNT else exact
        return int(min(exact, Decimal(MAX_AMOUNT)).to_integral_value(ROUND_HALF_EVEN))

    def _try(self, usage: Usage) -> None:
        expected = f"a number of {self.unit.value} for every usage"
        try:
            value = self._value(usage)
        except TypeError as error:
            raise ExpressionError(
                "operands of one type",
                f"an operation between two types, for {_shown(usage)}",
                "int and double do not mix in CEL: write double(input_tokens) * 0.000003, and "
                "1.0 instead of 1 beside a double",
            ) from error
        except (ArithmeticError, RuntimeError, ValueError) as error:
            hint = "guard it: input_tokens > 0 ? ... : 0.0" if "zero" in str(error) else None
            raise ExpressionError(expected, f"{_plain(error)} for {_shown(usage)}", hint) from error
        if _is_sound(value):
            return
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ExpressionError(expected, f"{_KINDS.get(type(value), 'another type')}")
        hint = None
        if value < 0:
            hint = "max(0.0, ...) keeps it from becoming negative"
        elif math.isnan(value) or math.isinf(value):
            hint = "a division by zero of doubles: guard it, input_tokens > 0 ? ... : 0.0"
        raise ExpressionError(expected + ", 0 or more", f"{value!r} for {_shown(usage)}", hint)


_KINDS: Final[dict[type, str]] = {
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a map",
    type(None): "null",
}


def _compiled(text: str) -> cel.Program:
    import cel  # slow to import, because it imports its own command line, and seldom needed

    if len(text) > _TEXT:
        raise ExpressionError(f"at most {_TEXT} characters", f"{len(text)}")
    try:
        program = cel.compile(text)
    except ValueError as error:
        raise _syntax_error(str(error)) from error
    known = (
        ("variables", program.variables(), VARIABLES),
        ("functions", _called(program), FUNCTIONS),
    )
    for kind, used, allowed in known:
        for name in used:
            if name not in allowed:
                raise ExpressionError(
                    f"{kind} among {', '.join(allowed)}", f"{name} at {_place(text, name)}"
                )
    return program


def _called(program: cel.Program) -> list[str]:
    """The functions without the operators, which CEL lists under names such as ``_+_``."""
    return [name for name in program.functions() if _NAME.fullmatch(name) and name[0] != "_"]


def _syntax_error(message: str) -> ExpressionError:
    found = _PARSE_ERROR.search(message)
    if found is None:
        return ExpressionError("a CEL expression", "a text that is none")
    line, column, what = found.groups()
    what = _UNEXPECTED.sub("unexpected", what.partition(" expecting ")[0])
    what = re.sub(r"\s+'(?=\s|$)", "'", what.replace("'<EOF>'", "end"))
    if "Incomplete" in what:  # the parser's own words for a part that is missing
        what = "an unfinished expression"
    return ExpressionError("a CEL expression", f"{what} at line {line}, column {column}")


def _place(text: str, name: str) -> str:
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    before = text[: found.start()] if found else ""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _samples(text: str) -> Iterator[Usage]:
    tiers = [int(number) for number in dict.fromkeys(_WHOLE.findall(text))][:_TIERS]
    around = {number for tier in tiers for number in (tier - 1, tier, tier + 1) if number >= 0}
    counts = sorted(around.union(_TRIED))
    for input_tokens, output_tokens in product(counts, counts):
        for cached, reasoning in product({0, input_tokens}, {0, output_tokens}):
            yield Usage(input_tokens, output_tokens, cached, reasoning)


def _variables(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _shown(usage: Usage) -> str:
    return ", ".join(f"{name} = {count}" for name, count in _variables(usage).items())


def _is_sound(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _plain(error: Exception) -> str:
    return str(error).removesuffix(".").removesuffix(" in CEL expression").split(". ")[0]
