"""The base of every section of the configuration, and what several sections need for their keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, ValidationInfo


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


ConfigPath = Annotated[Path, AfterValidator(absolute)]
"""A path; a relative one starts from the folder of the configuration file."""
