"""Secrets: by reference only, resolved at load, shown nowhere, sent on in private."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config.config import Config
from gateway.config.reading.load import load
from gateway.config.reading.problems import ConfigError
from gateway.config.reading.wire import from_json, to_json
from gateway.config.schema.pools import ProcessPool
from gateway.config.schema.secret import Secret

PRIVATE = "hush-hush-4711"
TLS = "listen: {{tls: {{certificate: {{file: cert.pem}}, key: {key}}}}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "cert.pem").write_text("CERTIFICATE\n")
    (tmp_path / "key.pem").write_text(f"{PRIVATE}\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "huge").write_bytes(b"x" * (2 << 20))
    return tmp_path / "penstock.yaml"


def loaded(path: Path, key: str, environment: Mapping[str, str] | None = None) -> Config:
    path.write_text(TLS.format(key=key))
    return load(path, environment=environment or {})


def key_of(config: Config) -> Secret:
    assert config.listen.tls is not None
    return config.listen.tls.key


def test_from_a_file_beside_the_configuration(path: Path) -> None:
    config = loaded(path, "{file: key.pem}")
    assert key_of(config).reveal() == PRIVATE
    assert key_of(config).file == path.parent / "key.pem"


def test_from_the_environment(path: Path) -> None:
    assert key_of(loaded(path, "{env: TLS_KEY}", {"TLS_KEY": PRIVATE})).reveal() == PRIVATE


def test_shown_nowhere(path: Path) -> None:
    config = loaded(path, "{env: TLS_KEY}", {"TLS_KEY": PRIVATE})
    shown = [repr(config), str(config), config.model_dump_json(), repr(config.model_dump())]
    shown += [repr(key_of(config)), config.model_copy().model_dump_json()]
    assert not any(PRIVATE in text for text in shown)


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
def test_refused_in_its_place_without_being_shown(path: Path, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(path, key, {"EMPTY": ""})
    (problem,) = caught.value.problems
    assert problem.line == 1
    assert problem.key == "listen.tls.key"
    assert says in str(problem)
    assert PRIVATE not in str(caught.value)
    assert caught.value.__cause__ is None  # nor in a traceback


def test_the_files_looked_at_are_told_with_the_error(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(path, "{file: none.pem}")
    assert path.parent / "none.pem" in caught.value.files


def test_unresolved_ones_are_not_revealed() -> None:
    with pytest.raises(LookupError, match="has not been resolved"):
        Secret(env="A").reveal()


def test_another_value_makes_another_configuration(path: Path) -> None:
    one = loaded(path, "{env: TLS_KEY}", {"TLS_KEY": "1"})
    assert one == loaded(path, "{env: TLS_KEY}", {"TLS_KEY": "1"})
    assert one != loaded(path, "{env: TLS_KEY}", {"TLS_KEY": "2"})


def test_a_worker_gets_all_of_it_without_files_or_variables(path: Path) -> None:
    path.write_text(
        TLS.format(key="{file: key.pem}")
        + "pools: [{name: a, type: process, command: ['{port}'], cwd: sub,"
        " env: {TOKEN: {env: TOKEN}, X: y}}]\n"
        "telemetry: {request_log: {file: log}}\n"
        "models: [{name: a, targets: [{model: b}]}]\n"
        "scheduling: {profiles: {p: {scorers: [{name: queue, params: {}}]}}}\n"
    )
    config = load(path, environment={"TOKEN": "t-1"})
    content = to_json(config)
    (path.parent / "key.pem").unlink()
    received = from_json(content)
    assert received == config
    assert key_of(received).reveal() == PRIVATE
    (pool,) = received.pools
    assert isinstance(pool, ProcessPool)
    token = pool.env["TOKEN"]
    assert isinstance(token, Secret)
    assert token.reveal() == "t-1"
    # The values stand apart from the configuration.
    assert PRIVATE not in json.dumps(json.loads(content)["config"])
    assert to_json(received) == content


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"config": {}, "secrets": 1}', b"x"])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(content)


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "db_password"])
def test_a_replicas_variable_with_the_name_of_a_secret_takes_no_text(path: Path, name: str) -> None:
    pool = "pools: [{{name: a, type: process, command: [x, '{{port}}'], env: {{{env}}}}}]\n"
    path.write_text(pool.format(env=f"{name}: {PRIVATE}"))
    with pytest.raises(ConfigError) as refused:
        load(path, environment={})
    (problem,) = refused.value.problems
    assert problem.key == f"pools[0].env.{name}"
    assert "{env: NAME} or {file: PATH}" in problem.expected
    assert PRIVATE not in str(refused.value)
    path.write_text(pool.format(env=f"{name}: {{env: THERE}}, KEYBOARD: plain"))
    assert load(path, environment={"THERE": PRIVATE}).pools[0].name == "a"
