"""The tree of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import loaded


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("", False),
        ("limits: {lease_s: 5}", False),
        ("identity: {}", True),
        ("plans: [{name: a}]", True),
        ("tenants: [{name: a}]", True),
        ("identity: {}\npricing: {}", True),
    ],
)
def test_whether_requests_are_told_apart(tmp_path: Path, text: str, has: bool) -> None:
    config = loaded(tmp_path, text)
    assert config.has_tenants is has
    assert config.identity_in_force.api_keys
    assert config.identity_in_force.anonymous is None
