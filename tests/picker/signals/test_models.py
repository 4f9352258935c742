"""What is read from /v1/models."""

from __future__ import annotations

import pytest

from picker.signals.models import ModelsError, parse_models
from picker.state.models import ServedModel


def test_base_model_and_adapter() -> None:
    body = b"""{"object": "list", "data": [
      {"id": "llama", "object": "model", "parent": null, "max_model_len": 4096},
      {"id": "sql", "object": "model", "parent": "llama", "max_model_len": null}]}"""
    assert parse_models(body) == [
        ServedModel("llama", None, 4096),
        ServedModel("sql", "llama", None),
    ]


def test_where_a_model_is_from_and_since_when() -> None:
    body = b"""{"data": [
      {"id": "a", "root": "org/a", "created": 1700000000}, {"id": "b", "root": 7, "created": 1e99},
      {"id": "c", "root": "", "created": -1}, {"id": "d", "created": 1700000000.5}]}"""
    found = [(model.root, model.created) for model in parse_models(body)]
    assert found == [("org/a", 1700000000), (None, None), (None, None), (None, 1700000000)]


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b'{"data": 1}', b'{"data": [1]}', b'{"data": [{"id": ""}]}']
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(ModelsError, match="/v1/models"):
        parse_models(body)
