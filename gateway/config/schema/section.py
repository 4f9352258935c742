"""The base of every section of the configuration, and what several sections need for their keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails

from gateway.config.schema.fault import Fault


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
        defer_build=True,  # a start builds the whole configuration once, not each part as well
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        faults = [*self.faults()]
        if faults:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [InitErrorDetails(type=one.as_error(), loc=one.at, input=None) for one in faults],
            )
        return self

    def faults(self) -> Iterable[Fault]:
        """Everything that is wrong between the keys of the section; each is shown at its place."""
        return ()


def by_shape(section: type[Section], mapping: str, other: str) -> Discriminator:
    """Decides between the alternatives of a key: a mapping, or already the section, is the one
    with the tag ``mapping``; anything else the one with the tag ``other``."""
    return Discriminator(lambda value: mapping if isinstance(value, (dict, section)) else other)


@dataclass(frozen=True, slots=True)
class FolderContext:
    """Validation context: the folder that relative paths start from."""

    folder: Path


def absolute(path: Path, info: ValidationInfo) -> Path:
    """The path, a relative one from the folder of the configuration file."""
    context = info.context
    return context.folder / path if isinstance(context, FolderContext) else path


ConfigPath = Annotated[Path, AfterValidator(absolute), "path"]
"""A path; a relative one starts from the folder of the configuration file."""
