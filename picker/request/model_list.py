"""Answers to GET /v1/models, in the shapes of OpenAI's API and of Anthropic's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import orjson

_OWNER: Final = "penstock"


class Model(Protocol):
    """A model as clients are shown it."""

    @property
    def id(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def parent(self) -> str | None: ...
    @property
    def max_model_tokens(self) -> int | None: ...
    @property
    def created(self) -> int: ...


def model_list(models: Sequence[Model], *, anthropic: bool) -> bytes:
    """Body of GET /v1/models."""
    if not anthropic:
        return orjson.dumps({"object": "list", "data": [_card(model) for model in models]})
    return orjson.dumps(
        {
            "data": [_anthropic_card(model) for model in models],
            "has_more": False,
            "first_id": models[0].id if models else None,
            "last_id": models[-1].id if models else None,
        }
    )


def model_card(model: Model, *, anthropic: bool) -> bytes:
    """Body of GET /v1/models/{id}."""
    return orjson.dumps(_anthropic_card(model) if anthropic else _card(model))


def _card(model: Model) -> dict[str, object]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": _OWNER,
        "root": model.root,
        "parent": model.parent,
        "max_model_len": model.max_model_tokens,
    }


def _anthropic_card(model: Model) -> dict[str, object]:
    created = datetime.fromtimestamp(model.created, UTC)
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
