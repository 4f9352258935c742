"""The base of every section of the configuration, and how a check refuses a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError


class Section(BaseModel):
    """Strict (no coercion), closed (unknown keys refused), immutable.

    The docstring under a field is its description in the reference page.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that a check refuses, for a person to act on."""

    at: tuple[str | int, ...]
    """Keys and indices that lead to it, from the section that checks."""
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


@dataclass(frozen=True, slots=True)
class Base:
    """Validation context: the folder that relative paths start from."""

    folder: Path


def absolute(path: Path, info: ValidationInfo) -> Path:
    """The path, a relative one from the folder of the configuration file."""
    context = info.context
    return context.folder / path if isinstance(context, Base) else path


ConfigPath = Annotated[Path, AfterValidator(absolute)]
"""A path; a relative one starts from the folder of the configuration file."""
