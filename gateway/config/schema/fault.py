"""How a check of the configuration refuses a value."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Location = tuple[str | int, ...]
"""Keys and indices that lead to a value."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that a check refuses, for a person to act on."""

    at: Location
    """From the section that checks."""
    expected: str
    got: str | None = None
    """None: the value itself is shown."""
    hint: str | None = None

    def as_error(self) -> PydanticCustomError:
        """The fault as pydantic carries it; ``at`` travels beside it."""
        context: dict[str, str] = {"expected": self.expected}
        if self.got is not None:
            context["got"] = self.got
        if self.hint is not None:
            context["hint"] = self.hint
        return PydanticCustomError("refused", "expected {expected}", context)


def refuse(
    expected: str, *, got: str | None = None, hint: str | None = None
) -> PydanticCustomError:
    """The error for a field's own validator to raise."""
    return Fault((), expected, got, hint).as_error()


def raise_faults(section: str, faults: Sequence[Fault]) -> None:
    """Raise every fault at once, each at its own place; nothing when there is none."""
    if faults:
        raise ValidationError.from_exception_data(
            section,
            [InitErrorDetails(type=f.as_error(), loc=f.at, input=None) for f in faults],
        )


def key_path(location: Iterable[str | int]) -> str:
    """A location as people write it: ``pools[0].endpoints[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def repeats(values: Iterable[Hashable]) -> Iterator[tuple[int, int]]:
    """Index of each value that is there already, and index of the first one that is equal."""
    first: dict[Hashable, int] = {}
    for index, value in enumerate(values):
        if (earlier := first.setdefault(value, index)) != index:
            yield index, earlier
