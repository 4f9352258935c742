"""A value that must not be written into the configuration: only where to find it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

from pydantic import BaseModel, PrivateAttr, ValidationInfo, model_validator

from gateway.config.schema.section import (
    Base,
    ConfigPath,
    Section,
    refuse,
)

MAX_SECRET_BYTES: Final = 1 << 20
_EXPECTED: Final = "{env: NAME} or {file: PATH}"
_HIDDEN: Final = "a value that is not shown, because it may be a secret"
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secret(Section):
    """A reference to a secret: exactly one of `env` and `file`."""

    env: str | None = None
    """Name of the environment variable that holds the secret, read when the file is loaded."""
    file: ConfigPath | None = None
    """File that holds the secret; relative to the configuration file. One newline at its end is
    dropped. The file is watched: a new content applies without a restart."""

    _value: str | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _only_a_reference(cls, given: object) -> object:
        if isinstance(given, Secret):
            return given
        if not isinstance(given, Mapping):
            raise refuse(
                _EXPECTED,
                got=_HIDDEN,
                hint="secrets are not written into the configuration: put it into an "
                "environment variable or a file and name that here",
            )
        named = {key: value for key, value in given.items() if value is not None}
        if len(named) != 1 or not named.keys() <= {"env", "file"}:
            raise refuse(f"exactly one key: {_EXPECTED}", got="another key, several, or none")
        (kind, value), *_ = named.items()
        if not isinstance(value, str | Path) or not str(value):
            raise refuse(_EXPECTED, got=_HIDDEN)
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
        """What identifies it without telling it: ``env:NAME`` or ``file:PATH``."""
        return f"env:{self.env}" if self.env is not None else f"file:{self.file}"


class SecretReader(Protocol):
    """Where the values of references come from."""

    def read(self, secret: Secret) -> str:
        """The value; raises PydanticCustomError (see `refuse`) when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class SecretContext(Base):
    """Validation context that also resolves secrets."""

    reader: SecretReader


@dataclass(slots=True)
class HostSecrets:
    """Reads secrets from the environment and from files, and notes which files it looked at."""

    environment: Mapping[str, str]
    files: set[Path] = field(default_factory=set)

    def read(self, secret: Secret) -> str:
        """See SecretReader."""
        if secret.env is not None:
            value = self.environment.get(secret.env)
            if not value:
                state = "set but empty" if value == "" else "not set"
                raise refuse(
                    "an environment variable that holds the secret",
                    got=f"environment variable {secret.env}, which is {state}",
                )
            return value
        if secret.file is None:
            raise refuse(_EXPECTED)
        return self._from_file(secret.file)

    def _from_file(self, path: Path) -> str:
        self.files.add(path)
        expected = "a readable file that holds the secret"
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise refuse(expected, got=f"{path}: {error.strerror}") from error
        if len(content) > MAX_SECRET_BYTES:
            raise refuse(
                f"a file of at most {MAX_SECRET_BYTES} bytes", got=f"{path}, which is larger"
            )
        try:
            value = content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise refuse("a file of UTF-8 text", got=f"{path}, which is not") from error
        if not value:
            raise refuse(expected, got=f"{path}, which is empty")
        return value


@dataclass(frozen=True, slots=True)
class KnownSecrets:
    """Values by reference, as another process of ours sent them."""

    values: Mapping[str, str]

    def read(self, secret: Secret) -> str:
        """See SecretReader."""
        if secret.reference not in self.values:
            raise refuse("a secret whose value was sent along", got=secret.reference)
        return self.values[secret.reference]


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
