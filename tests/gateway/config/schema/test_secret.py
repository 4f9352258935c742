"""Secrets stand by reference only, and are shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.reading.problems import ConfigError
from gateway.config.schema.redis import RedisChoice
from gateway.config.schema.secret import Secret
from tests.gateway.config.texts import HASH, KEY, PRIVATE, REDIS, loaded

TOKEN = "admin: {token: {env: TOKEN}}"


@pytest.mark.parametrize(
    "text",
    [
        KEY.format(PRIVATE),
        KEY.format(f"{HASH[:-1]}-{PRIVATE}"),
        KEY.format("{env: PRIVATE}"),
        REDIS.format(f"url: 'redis://:{PRIVATE}@h/0'"),
        REDIS.format(f"url: 'redis://h/0?password={PRIVATE}'"),
        REDIS.format(f"url: 'http://:{PRIVATE}@h/0'"),
        REDIS.format("url: {env: PRIVATE}"),
        f"identity: {{jwt: {{issuer: a, jwks_uri: 'https://u:{PRIVATE}@x'}}}}",
        f"identity: {{jwt: {{issuer: a, jwks: {PRIVATE}}}}}",
        f"admin: {{token: {PRIVATE}}}",
        "admin: {token: {env: SHORT}}",
        "admin: {token: {env: SPACED}}",
    ],
)
def test_what_may_be_a_secret_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    environment = {"PRIVATE": PRIVATE, "SHORT": PRIVATE[:8], "SPACED": f"{PRIVATE} {PRIVATE}"}
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text, environment)
    (problem,) = refused.value.problems
    assert problem.line > 0
    assert PRIVATE[:8] not in str(refused.value)


def test_secrets_may_be_anywhere_but_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "hash").write_text(HASH + "\n")
    config = loaded(
        tmp_path,
        KEY.format("{file: hash}") + "\nadmin: {address: 0.0.0.0, token: {env: TOKEN}}\n"
        "limits: {store: {redis: {url: {env: REDIS_URL}, timeout_ms: 20, share: 4}}}\n",
        {"TOKEN": PRIVATE, "REDIS_URL": f"redis://:{PRIVATE}@h:6379/0"},
    )
    assert config.tenants[0].keys[0].digest == bytes.fromhex(HASH)
    assert isinstance(config.limits.store, RedisChoice)
    assert config.limits.store.redis.address == f"redis://:{PRIVATE}@h:6379/0"
    assert config.admin.token is not None
    assert config.admin.token.reveal() == PRIVATE
    assert PRIVATE not in repr(config)


def test_shown_nowhere(tmp_path: Path) -> None:
    config = loaded(tmp_path, TOKEN, {"TOKEN": PRIVATE})
    shown = [repr(config), str(config), config.model_dump_json(), repr(config.model_dump())]
    shown += [repr(config.admin.token), config.model_copy().model_dump_json()]
    assert not any(PRIVATE in text for text in shown)


def test_unresolved_ones_are_not_revealed() -> None:
    with pytest.raises(LookupError, match="has not been resolved"):
        Secret(env="A").reveal()


def test_another_value_makes_another_configuration(tmp_path: Path) -> None:
    one = loaded(tmp_path, TOKEN, {"TOKEN": PRIVATE})
    assert one == loaded(tmp_path, TOKEN, {"TOKEN": PRIVATE})
    assert one != loaded(tmp_path, TOKEN, {"TOKEN": PRIVATE + "2"})
