"""The whole configuration."""

from __future__ import annotations

from gateway.config.config import schema_json


def test_the_schema_is_json_schema() -> None:
    assert '"$schema": "https://json-schema.org/draft/2020-12/schema"' in schema_json()
