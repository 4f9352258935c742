"""Step: the decision as the transports need it, with what our own filters are to know."""

from __future__ import annotations

from typing import Final

import orjson
from msgspec import structs

from picker import names
from picker.pipeline.sessions import session_token
from picker.prompt.forms import Form
from picker.request.answer import Decision, ResponseNames, Shown
from picker.request.context import RequestContext
from picker.request.response_ids import ResponseIds

_RETRIED: Final = "404,429,500,502"
"""Of a request for a model that several replicas have: the next one may do better. Other requests
may not be sent twice, as what they do is not known."""


_NO_RESPONSE: Final = ResponseNames()
_FORBIDDEN: Final = frozenset(names.CLIENT_MAY_NOT_SET)


class Decide:
    """From the context to the decision."""

    def __init__(
        self,
        picker_id: str,
        response_ids: ResponseIds,
        *,
        report_scores: bool,
        shows_decisions: bool,
    ) -> None:
        self._response_ids = response_ids
        self._picker_id = picker_id
        self._report_scores = report_scores
        self._shows_decisions = shows_decisions

    def __call__(self, context: RequestContext) -> None:
        headers = context.head.headers
        wants_token = names.SESSION_ID in headers or names.SESSION_TOKEN in headers
        rename = None
        if context.model_changed and context.asked_model:
            rename = (context.served_model, context.asked_model)
        renamed = self._renamed(context)
        metadata = self._metadata(context, rename)
        if renamed:
            metadata["responses"] = _for_filter(renamed)
        answering = context.picks[-1]
        if wants_token:
            metadata["session_token"] = session_token(answering.address)
        shown = _shown(context) if self._shows_decisions else None
        if shown is not None:
            metadata["shown"] = structs.asdict(shown)
        context.decision = Decision(
            id=context.id,
            pool=context.pool,
            picks=context.picks,
            set_headers=tuple(context.set_headers),
            remove_headers=_removed(context),
            body=context.changed_body,
            rename=rename,
            response_ids=renamed,
            strip_usage=context.strip_usage,
            wants_session_token=wants_token,
            metadata=metadata,
            scores=dict(zip(answering.addresses, answering.scores, strict=True))
            if self._report_scores
            else None,
            retried_statuses=_RETRIED if context.names_model else "",
            response_headers=context.response_headers,
            shown=shown,
        )

    def _renamed(self, context: RequestContext) -> ResponseNames:
        known, issue = None, None
        if context.response_id:
            known = (context.response_id, context.given_response_id)
        if context.form is Form.RESPONSES and context.head.sends:
            issue = self._response_ids.issue(context.caller.tenant, context.picks[-1].addresses)
        return ResponseNames(known, issue) if known or issue else _NO_RESPONSE

    def _metadata(
        self, context: RequestContext, rename: tuple[str, str] | None
    ) -> dict[str, object]:
        metadata: dict[str, object] = {"id": context.id, "picker": self._picker_id}
        if context.strip_usage:
            metadata["strip_usage"] = True
        if context.grant is not None:
            metadata["ticket"] = context.grant.ticket
        if context.response_headers:
            metadata["response_headers"] = dict(context.response_headers)
        if rename is not None:
            for key, name in zip(("served_model", "asked_model"), rename, strict=True):
                metadata[key] = orjson.dumps(name).decode()  # as it stands in the response
        return metadata


def _shown(context: RequestContext) -> Shown:
    ttft_s = context.choices[0].predicted_ttft_s
    ttft_ms = "" if ttft_s is None else f"{ttft_s * 1000:.1f}"
    return Shown(context.picks[-1].address, ttft_ms)


def _removed(context: RequestContext) -> tuple[str, ...]:
    """Headers that the request has, and the replica does not get."""
    headers = context.head.headers
    unwanted = (*context.caller.credentials, *context.remove_headers)
    if not _FORBIDDEN.isdisjoint(headers):
        unwanted = (*names.CLIENT_MAY_NOT_SET, *unwanted)
    return tuple([name for name in unwanted if name in headers])


def _for_filter(names: ResponseNames) -> dict[str, object]:
    told: dict[str, object] = {}
    if names.known is not None:
        told["held"], told["given"] = names.known
    if names.issue is not None:
        told["pad"], told["seals"] = names.issue.pad, names.issue.seals
    return told
