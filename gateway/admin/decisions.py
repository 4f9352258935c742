"""/api/decisions: the last decisions of all pickers, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import orjson
from aiohttp import web

from gateway.admin.answers import MAX_PAGE, PAGE, BadRequest, answer, query, whole
from gateway.admin.guard import error
from gateway.admin.status import StatusSource
from gateway.control.decisions import Answer
from picker.explain.selection import Kept, Query

_FILTERS: Final = ("tenant", "model", "pool", "endpoint", "state")
_MAX_SAME: Final = 20
"""Decisions of one request id: a client may use it again."""


class DecisionHandlers:
    """See the module."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def add_to(self, app: web.Application) -> None:
        """Put the handlers into the application."""
        app.router.add_get("/api/decisions", self.list)
        app.router.add_get("/api/decisions/{id}", self.one)

    async def list(self, request: web.Request) -> web.Response:
        """The newest first, without what was weighed."""
        given = query(request, ("limit", "request_id", *_FILTERS))
        text = given.get("limit", str(PAGE))
        limit = whole(text)
        if limit is None or not 1 <= limit <= MAX_PAGE:
            raise BadRequest(f"limit must be a whole number from 1 to {MAX_PAGE}, got {text!r}")
        asked = Query(
            request_id=_id(given["request_id"]) if "request_id" in given else "",
            limit=limit,
            tenant=given.get("tenant", ""),
            model=given.get("model", ""),
            pool=given.get("pool", ""),
            endpoint=given.get("endpoint", ""),
            state=given.get("state", ""),
        )
        found = await self._source.decisions.find(asked)
        return answer(_document(found))

    async def one(self, request: web.Request) -> web.Response:
        """All that is kept of a request; more than one decision when its id was used again."""
        query(request, ())
        id_ = _id(request.match_info["id"])
        found = await self._source.decisions.find(
            Query(request_id=id_, limit=_MAX_SAME, whole=True)
        )
        if found.decisions:
            return answer(_document(found))
        if not found.kept:
            return error(503, "decisions_unavailable", "; ".join(found.silent) or "no picker runs")
        return error(404, "unknown_request", _unknown(id_, found))


def _id(text: str) -> str:
    if not text or not text.isprintable():
        raise BadRequest(
            "a request id is what a response has in x-request-id: at least one character, all of"
            f" them printable; got {text!r}"
        )
    return text


def _document(found: Answer) -> Mapping[str, object]:
    return {
        "decisions": [orjson.Fragment(document) for _, document in found.decisions],
        "pickers": [
            {
                "picker": one.picker,
                "decided_total": one.decided_total,
                "oldest_decided_at": _time(one.oldest_s),
                "forgets": one.forgets,
            }
            for one in found.kept
        ],
        "silent": found.silent,
    }


def _unknown(id_: str, found: Answer) -> str:
    said = f"no picker remembers a request with the id {id_!r}"
    old = [one for one in found.kept if one.forgets and one.oldest_s is not None]
    if old:
        since = max(map(_since, old))
        said += (
            f": each keeps its last 10,000 decisions and 2,000 refusals, and they go back to"
            f" {_time(since)}. It was older, or it did not come through this gateway"
        )
    else:
        said += (
            ": none was decided under it since the pickers were started. Is it what the response"
            " had in x-request-id, and is this its gateway?"
        )
    if found.silent:
        said += f". Not all could be asked: {'; '.join(found.silent)}"
    return said


def _since(kept: Kept) -> float:
    return kept.oldest_s or 0.0


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return at.replace("+00:00", "Z")
