"""Secrets are read when the file is loaded: from files, or from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError
from gateway.config.schema.secret import Secret
from tests.gateway.config.texts import PRIVATE
from tests.gateway.config.texts import loaded as loaded_text

TLS = "listen: {{tls: {{certificate: {{file: cert.pem}}, key: {key}}}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cert.pem").write_text("CERTIFICATE\n")
    (tmp_path / "key.pem").write_text(f"{PRIVATE}\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_bytes(b"x" * (2 << 20))
    return tmp_path


def loaded(folder: Path, key: str, environment: Mapping[str, str] | None = None) -> Config:
    return loaded_text(folder, TLS.format(key=key), environment)


def key_of(config: Config) -> Secret:
    assert config.listen.tls is not None
    return config.listen.tls.key


def test_from_a_file_beside_the_configuration(folder: Path) -> None:
    config = loaded(folder, "{file: key.pem}")
    assert key_of(config).reveal() == PRIVATE
    assert key_of(config).file == folder / "key.pem"


def test_from_the_environment(folder: Path) -> None:
    assert key_of(loaded(folder, "{env: TLS_KEY}", {"TLS_KEY": PRIVATE})).reveal() == PRIVATE


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (PRIVATE, "secrets are not written into the configuration"),
        (f"'{PRIVATE}'", "secrets are not written into the configuration"),
        (f"[{PRIVATE}]", "secrets are not written into the configuration"),
        (f"{{value: {PRIVATE}}}", "exactly one key: {env: NAME} or {file: PATH}"),
        (f"{{{PRIVATE}}}", "exactly one key"),
        (f"{{env: {PRIVATE}}}", "give the variable's name, not its value"),
        (f"{{env: [{PRIVATE}]}}", "{env: NAME} or {file: PATH}"),
        (f"{{env: A, value: {PRIVATE}}}", "exactly one key"),
        ("{env: A, file: b}", "exactly one key"),
        ("{}", "exactly one key"),
        ("{env: TLS_KEY}", "environment variable TLS_KEY, which is not set"),
        ("{env: EMPTY}", "environment variable EMPTY, which is set but empty"),
        ("{file: none.pem}", "none.pem: No such file or directory"),
        ("{file: .}", "Is a directory"),
        ("{file: empty}", "which is empty"),
        ("{file: binary}", "a file of UTF-8 text"),
        ("{file: huge}", "at most 1048576 bytes"),
    ],
)
def test_refused_in_its_place_without_being_shown(folder: Path, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, key, {"EMPTY": ""})
    (problem,) = caught.value.problems
    assert problem.line == 1
    assert problem.key == "listen.tls.key"
    assert says in str(problem)
    assert PRIVATE not in str(caught.value)
    assert caught.value.__cause__ is None  # nor in a traceback


def test_the_files_looked_at_are_told_with_the_error(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, "{file: none.pem}")
    assert folder / "none.pem" in caught.value.files
