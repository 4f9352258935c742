"""The Redis in which limits are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import REDIS, assert_refused, loaded


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (REDIS.format("url: 'http://x'"), "limits.store.redis.url", "redis://HOST:PORT/DB"),
        (REDIS.format("url: 'redis://'"), "limits.store.redis.url", "redis://HOST:PORT/DB"),
        (REDIS.format("url: 'redis://x:99999'"), "limits.store.redis.url", "redis://HOST:PORT/DB"),
        (
            REDIS.format("url: 'unix:///r', cluster: true"),
            "limits.store.redis.cluster",
            "not reached by a unix socket",
        ),
        (
            REDIS.format("url: 'redis://x/3', cluster: true"),
            "limits.store.redis.url",
            "database 0",
        ),
        (REDIS.format("url: 'redis://x', prefix: '{x}'"), "limits.store.redis.prefix", "braces"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)


@pytest.mark.parametrize(
    "text",
    [
        REDIS.format("url: 'rediss://user@h', cluster: true"),
        REDIS.format("url: 'unix:///run/redis.sock?db=1'"),
    ],
)
def test_what_is_accepted(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)
