"""Reads parameters as FastAPI does, and reports errors in vLLM's words."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from loadtests.sim.serving.surface.body import ApiError

_LONGEST_INPUT = 200

M = TypeVar("M", bound=BaseModel)


def read_query(model: type[M], request: web.BaseRequest) -> M:
    """Query parameters. Raises ApiError."""
    return _validate(model, dict(request.query), "query")


async def read_json(model: type[M], request: web.BaseRequest) -> M:
    """A body that must be declared as JSON. Raises ApiError."""
    if request.content_type != "application/json":
        raise _wrong(["Unsupported Media Type: Only 'application/json' is allowed"], None)
    try:
        document = json.loads(await request.read())
        json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else 0
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        where = f"body.{at}"
        found = {
            "type": "json_invalid",
            "loc": where,
            "msg": "JSON decode error",
            "input": _shown({}),
            "ctx": {"error": reason},
        }
        raise _wrong([str(found)], where) from error
    if not isinstance(document, dict):
        found = {
            "type": "model_attributes_type",
            "loc": "body",
            "msg": "Input should be a valid dictionary or object to extract fields from",
            "input": _shown(document),
        }
        raise _wrong([str(found)], "body")
    return _validate(model, document, "body")


def _validate(model: type[M], values: Mapping[str, object], where: str) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        places = [".".join(map(str, (where, *each["loc"]))) for each in found]
        errors = [
            str(dict(each) | {"loc": place, "input": _shown(each["input"])})
            for each, place in zip(found, places, strict=True)
        ]
        raise _wrong(errors, places[0]) from error


def _wrong(errors: Sequence[str], param: str | None) -> ApiError:
    count = f"{len(errors)} validation error{'s' if len(errors) > 1 else ''}:"
    return ApiError("\n  ".join((count, *errors)), kind="Bad Request", param=param)


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= _LONGEST_INPUT else text[:_LONGEST_INPUT] + "...[truncated]"
