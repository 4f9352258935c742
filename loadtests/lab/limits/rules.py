"""A limit as it is given to ``penstock lab limits``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from loadtests.lab.limits.history import Count, Tokens
from loadtests.lab.source import LabError

_COUNTS: Final[tuple[Count, ...]] = ("requests", "input_tokens", "output_tokens", "total_tokens")
_PERIODS_S: Final = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
_EXAMPLE: Final = "total_tokens:2000/minute, with :burst=500 or :calendar behind it"


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit that refills evenly, or with ``calendar`` one that starts anew each period (UTC)."""

    count: Count
    limit: float
    period_s: float
    burst: float
    """Most that can be used at once."""
    calendar: bool = False

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Of ``COUNT:AMOUNT/PERIOD``. Raises LabError."""
        count, _, rest = text.partition(":")
        amount, *options = rest.split(":")
        number, _, period = amount.partition("/")
        kind = next((one for one in _COUNTS if one == count), None)
        limit, period_s = _number(number), _PERIODS_S.get(period)
        if kind is None or limit is None or period_s is None:
            raise LabError(f"--limit {text}: COUNT:AMOUNT/PERIOD is wanted, {_EXAMPLE}")
        burst, calendar = limit, False
        for option in options:
            name, _, value = option.partition("=")
            given = _number(value) if name == "burst" else None
            if option == "calendar":
                calendar = True
            elif given is not None:
                burst = given
            else:
                raise LabError(f"--limit {text}: {option!r} is no option, {_EXAMPLE}")
        return cls(kind, limit, period_s, burst, calendar)

    @property
    def rate(self) -> float:
        """Refill per second."""
        return self.limit / self.period_s

    def of(self, tokens: Tokens) -> float:
        """What counts of a request."""
        match self.count:
            case "requests":
                return 1.0
            case "input_tokens":
                return float(tokens.input)
            case "output_tokens":
                return float(tokens.output)
            case "total_tokens":
                return float(tokens.input + tokens.output)

    def __str__(self) -> str:
        every = next(name for name, length_s in _PERIODS_S.items() if length_s == self.period_s)
        window = f" a calendar {every}" if self.calendar else f" a {every}"
        burst = f", {self.burst:g} at once" if self.burst != self.limit else ""
        return f"{self.limit:g} {self.count}{window}{burst}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
