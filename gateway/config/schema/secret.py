"""Values that are not written into the configuration: it only says where to find them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Protocol, Self

from pydantic import BaseModel, PrivateAttr, Tag, ValidationInfo, model_validator

from gateway.config.schema.fault import refuse
from gateway.config.schema.section import ConfigPath, FolderContext, Section, by_shape

EXPECTED: Final = "{env: NAME} or {file: PATH}"
_HIDDEN: Final = "a value that is not shown, because it may be a secret"
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secret(Section):
    """A reference to a secret: exactly one of `env` and `file`."""

    env: str | None = None
    """Name of the environment variable that holds the secret, read when the file is loaded."""
    file: ConfigPath | None = None
    """File that holds the secret; relative to the configuration file. One newline at its end is
    dropped. The file is watched: a new value applies without a restart."""

    _value: str | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _only_a_reference(cls, given: object) -> object:
        if isinstance(given, Secret):
            return given
        if not isinstance(given, Mapping):
            raise refuse(
                EXPECTED,
                got=_HIDDEN,
                hint="secrets are not written into the configuration: put it into an "
                "environment variable or a file and name that here",
            )
        named = {key: value for key, value in given.items() if value is not None}
        if len(named) != 1 or not named.keys() <= {"env", "file"}:
            raise refuse(f"exactly one key: {EXPECTED}", got="another key, several, or none")
        (kind, value), *_ = named.items()
        if not isinstance(value, str | Path) or not str(value):
            raise refuse(EXPECTED, got=_HIDDEN)
        if kind == "env" and not _ENV_NAME.fullmatch(str(value)):
            raise refuse(
                "the name of an environment variable (letters, digits, _)",
                got=_HIDDEN,
                hint="give the variable's name, not its value",
            )
        return named

    @model_validator(mode="after")
    def _resolve(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, SecretContext):
            self._value = info.context.reader.read(self)
        return self

    def reveal(self) -> str:
        """The secret itself. Never log it.

        Raises LookupError when the reference was built by hand and never resolved.
        """
        if self._value is None:
            raise LookupError(f"{self!r} has not been resolved: load it with a configuration")
        return self._value

    @property
    def reference(self) -> str:
        """Identifies the secret without showing it: ``env:NAME`` or ``file:PATH``."""
        return f"env:{self.env}" if self.env is not None else f"file:{self.file}"


TextOrSecret = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Secret, Tag("<reference>")],
    by_shape(Secret, "<reference>", "<text>"),
]


class SecretReader(Protocol):
    """Where the values of references come from."""

    def read(self, secret: Secret) -> str:
        """The value; raises PydanticCustomError (see `refuse`) when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class SecretContext(FolderContext):
    """Validation context that also resolves secrets."""

    reader: SecretReader


def revealed(value: str | Secret) -> str:
    """The text, or the secret itself. Raises LookupError as `Secret.reveal` does."""
    return value.reveal() if isinstance(value, Secret) else value


def secrets_in(value: object) -> Iterator[Secret]:
    """Every secret in a section, at any depth."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from secrets_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from secrets_in(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from secrets_in(item)
