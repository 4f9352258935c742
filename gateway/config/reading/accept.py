"""The one way from a file to a configuration that can be put into force: the file is sound, and so
are the policies and tokenizers that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.config.checks.policies import check_policies
from gateway.config.checks.tokenizers import check_tokenizers
from gateway.config.config import Config
from gateway.config.reading.load import load_with_yaml
from gateway.config.reading.problems import ConfigError
from gateway.config.reading.refusals import problem_of
from gateway.config.schema.secret import secrets_in


def accept(path: Path, *, environment: Mapping[str, str] | None = None) -> Config:
    """Load a configuration that can be put into force. Raises ConfigError with every problem.

    Plugins with policies must have been loaded (`policies.registry.load_plugins`).
    ``environment``: where ``{env: NAME}`` secrets come from; None: this process's.
    """
    config, file = load_with_yaml(path, environment=environment)
    faults = [*check_policies(config), *check_tokenizers(config)]
    if faults:
        problems = [problem_of(fault, file) for fault in faults]
        raise ConfigError(problems, files=frozenset(files_of(path, config)))
    return config


def files_of(path: Path, config: Config) -> set[Path]:
    """The files that a configuration was made of: its own, and those of its secrets."""
    secrets = {secret.file for secret in secrets_in(config) if secret.file is not None}
    return {path.absolute(), *secrets}
