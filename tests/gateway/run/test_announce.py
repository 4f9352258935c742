"""What `penstock up` tells people to do next."""

from __future__ import annotations

import json

import pytest

from gateway.config.config import Config
from gateway.run.announce import first_key


def config_of(**sections: object) -> Config:
    return Config.model_validate_json(json.dumps({"identity": {}, **sections}))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
        ("10.0.0.5", "http://10.0.0.5:9000"),
        ("fd00::5", "http://[fd00::5]:9000"),
    ],
)
def test_the_first_key_is_made_where_somebody_answers(address: str, url: str) -> None:
    config = config_of(
        admin={"address": address, "port": 9000, "token": {"env": "TOKEN"}},
        tenants=[{"name": "acme"}],
    )
    assert first_key(config) == [
        f'  KEY=$(PENSTOCK_ADMIN_TOKEN="$TOKEN" penstock keys create acme --quiet --url {url})'
    ]


def test_without_a_tenant_one_is_made_first() -> None:
    assert first_key(config_of()) == [
        "  penstock tenants create demo",
        "  KEY=$(penstock keys create demo --quiet)",
    ]
