"""Reading /v1/models: which models and adapters a replica serves."""

from __future__ import annotations

from typing import Final

import orjson

from picker.state.models import ServedModel

_LATEST: Final = 1 << 37
"""Seconds since the epoch: beyond that it is something else, or milliseconds."""


class ModelsError(ValueError):
    """An answer to GET /v1/models that is no model list."""


def parse_models(body: bytes) -> list[ServedModel]:
    """The models in an OpenAI model list with vLLM's additions (``parent``, ``max_model_len``).

    Raises ModelsError.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ModelsError(f"/v1/models is no JSON: {error}") from error
    cards = document.get("data") if isinstance(document, dict) else None
    if not isinstance(cards, list):
        raise ModelsError('/v1/models has no list "data"')
    return [_model(card) for card in cards]


def _model(card: object) -> ServedModel:
    name = card.get("id") if isinstance(card, dict) else None
    if not isinstance(card, dict) or not isinstance(name, str) or not name:
        raise ModelsError('/v1/models: an entry of "data" has no "id"')
    parent, longest_tokens = card.get("parent"), card.get("max_model_len")
    root, created = card.get("root"), card.get("created")
    return ServedModel(
        id=name,
        parent=parent if isinstance(parent, str) and parent else None,
        max_model_tokens=longest_tokens
        if isinstance(longest_tokens, int) and longest_tokens > 0
        else None,
        root=root if isinstance(root, str) and root else None,
        created=int(created)
        if isinstance(created, int | float) and 0 < created < _LATEST
        else None,
    )
