"""Loading the configuration file: from a path to a Config, or to every problem in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError, Problem
from gateway.config.reading.secrets import HostSecrets
from gateway.config.reading.survey import survey
from gateway.config.reading.yaml_file import YamlFile, parse
from gateway.config.schema.secret import SecretContext

_STATE_DIR: Final = "penstock-state"


def load(path: Path, *, environment: Mapping[str, str] | None = None) -> Config:
    """Read, check and resolve a configuration file. Raises ConfigError with every problem found.

    ``environment``: where ``{env: NAME}`` secrets come from; None: this process's.
    """
    return load_with_yaml(path, environment=environment)[0]


def load_with_yaml(
    path: Path, *, environment: Mapping[str, str] | None = None
) -> tuple[Config, YamlFile]:
    """As `load`, and the parsed file, which knows the position of each value."""
    path = path.absolute()
    file = parse(path, _read(path))
    secrets = HostSecrets(os.environ if environment is None else environment)
    context = SecretContext(folder=path.parent, reader=secrets)
    try:
        config = Config.model_validate_json(json.dumps(file.data), context=context)
    except ValidationError:
        problems = survey(file, context)
        raise ConfigError(problems, files=frozenset({path, *secrets.files})) from None
    if config.state_dir is None:
        config = config.model_copy(update={"state_dir": path.parent / _STATE_DIR})
    return config, file


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        got = error.strerror or str(error)
    except UnicodeDecodeError as error:
        got = f"bytes that are not UTF-8, at offset {error.start}"
    problem = Problem(path, 0, 0, "", got, "a readable YAML file")
    raise ConfigError([problem], files=frozenset({path}))
