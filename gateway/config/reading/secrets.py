"""Where the values of secrets are read: from this machine, or as another process sent them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.config.schema.fault import refuse
from gateway.config.schema.secret import EXPECTED, Secret

MAX_SECRET_BYTES: Final = 1 << 20


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
            raise refuse(EXPECTED)
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
