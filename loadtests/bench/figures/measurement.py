"""What every figure gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from loadtests.bench.rows import Row
from loadtests.bench.stand import Stand

Amount = TypeVar("Amount")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time to spend, and whom to tell what is going on."""

    quick: bool
    say: Callable[[str], None]
    gateways: Sequence[str] = ()
    """Parts of the titles of those to compare; none: all."""

    def of(self, full: Amount, quick: Amount) -> Amount:
        """The one that applies."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Figure:
    """A named measurement on a stand with so many replicas."""

    name: str
    about: str
    replicas: int
    measure: Callable[[Stand, Effort], list[Row]]


@dataclass(frozen=True, slots=True)
class OwnFigure:
    """A named measurement that starts what it needs itself."""

    name: str
    about: str
    measure: Callable[[Effort], list[Row]]
