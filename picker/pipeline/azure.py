"""Step: Azure's spelling of OpenAI's paths, which name the model."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from msgspec.structs import replace

from picker.prompt.forms import form_of
from picker.request.context import RequestContext

_PREFIX: Final = "/openai/"
_DEPLOYMENT: Final = re.compile(
    r"/openai/deployments/(?P<model>[^?#/][^?#]*?)"
    r"(?P<path>/chat/completions|/completions|/embeddings|/responses|/audio/\w+|/images/\w+)/?"
)
_PLAIN: Final = re.compile(r"/openai(?:/v1)?(?P<path>/(?:responses|models)(?:/.*)?)/?")
_V1: Final = re.compile(r"/openai(?P<path>/v1/.+)")
_SAFE: Final = "/:@!$&'()*+,=~"
_VERSION: Final = "api-version="


class ReadDeployment:
    """``/openai/deployments/MODEL/chat/completions`` is ``/v1/chat/completions`` for MODEL, and
    ``/openai/v1/...`` is ``/v1/...``. Replicas get the path that they know."""

    def __call__(self, context: RequestContext) -> None:
        given = context.head.path
        if not given.startswith(_PREFIX):
            return
        model, path = _read(given)
        if path == given:
            return
        context.deployment = model
        query = _query(context.head.headers.get(":path", ""))
        respelled = quote(path, safe=_SAFE) + query
        context.head = replace(context.head, path=path, respelled=respelled)
        context.form = form_of(path)


def _read(path: str) -> tuple[str, str]:
    """The model that the path names, "" for none, and the path as OpenAI has it."""
    if (named := _DEPLOYMENT.fullmatch(path)) is not None:
        return named["model"], "/v1" + named["path"]
    if (plain := _PLAIN.fullmatch(path)) is not None:
        return "", "/v1" + plain["path"]
    if (same := _V1.fullmatch(path)) is not None:
        return "", same["path"]
    return "", path


def _query(target: str) -> str:
    """The query without Azure's own parameter."""
    given = target.partition("#")[0].partition("?")[2].split("&")
    rest = [one for one in given if one and not one.startswith(_VERSION)]
    return "?" + "&".join(rest) if rest else ""
