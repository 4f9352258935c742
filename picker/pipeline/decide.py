"""Step: the decision as the transports need it, with what our own filters are to know."""

from __future__ import annotations

import orjson

from picker import names
from picker.pipeline.schedule import session_token
from picker.request.answer import Decision
from picker.request.context import RequestContext


class Decide:
    """From the context to the decision."""

    def __init__(self, picker_id: str, *, report_scores: bool) -> None:
        self._picker_id = picker_id
        self._report_scores = report_scores

    async def __call__(self, context: RequestContext) -> None:
        headers = context.head.headers
        wants_token = names.SESSION_ID in headers or names.SESSION_TOKEN in headers
        rename = None
        if context.model_changed and context.asked_model:
            rename = (context.served_model, context.asked_model)
        metadata = self._metadata(context, rename)
        answering = context.picks[-1]
        if wants_token:
            metadata["session_token"] = session_token(answering.address)
        context.decision = Decision(
            id=context.id,
            pool=context.pool,
            picks=context.picks,
            set_headers=tuple(context.set_headers),
            remove_headers=tuple(
                name
                for name in (
                    *names.CLIENT_MAY_NOT_SET,
                    *context.caller.credentials,
                    *context.remove_headers,
                )
                if name in headers
            ),
            body=context.changed_body,
            rename=rename,
            strip_usage=context.strip_usage,
            wants_session_token=wants_token,
            metadata=metadata,
            scores=dict(zip(answering.addresses, answering.scores, strict=True))
            if self._report_scores
            else None,
            response_headers=context.response_headers,
        )

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
