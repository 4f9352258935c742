"""TLS towards replicas."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_refused


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (
            "pools: [{name: a, type: static, endpoints: [], tls: {}}]",
            "pools[0].tls.server_name",
            "verify: false switches the check off",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)
