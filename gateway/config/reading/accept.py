"""The one door for a configuration: the file is sound, and so is what it names: policies and
tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.config.checks.policies import check_policies
from gateway.config.checks.tokenizers import check_tokenizers
from gateway.config.config import Config
from gateway.config.reading.load import load_with_source
from gateway.config.reading.problems import ConfigError
from gateway.config.schema.secret import secrets_in


def accept(path: Path, *, environment: Mapping[str, str] | None = None) -> Config:
    """Load a configuration that can be put into force. Raises ConfigError with every problem.

    Plugins with policies must have been loaded (`policies.registry.load_plugins`).
    ``environment``: where ``{env: NAME}`` secrets come from; None: this process's.
    """
    config, source = load_with_source(path, environment=environment)
    problems = [*check_policies(config, source), *check_tokenizers(config, source)]
    if problems:
        raise ConfigError(problems, files=frozenset(files_of(path, config)))
    return config


def files_of(path: Path, config: Config) -> set[Path]:
    """The files that a configuration was made of: its own, and those of its secrets."""
    secrets = {secret.file for secret in secrets_in(config) if secret.file is not None}
    return {path.absolute(), *secrets}
