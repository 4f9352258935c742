"""Step: what another process of this gateway answers is sent there, with who it is from."""

from __future__ import annotations

from urllib.parse import quote

from picker import names
from picker.pipeline.doors import closed
from picker.request.answer import Answer, Handover
from picker.request.context import RequestContext


class HandOver:
    """Files and batches go to the batch lane, where there is one. The caller is known by now, and
    no header of the client's says who that is."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        """``paths``: those that are handed over, with all below."""
        self._paths = paths
        self._below = tuple(f"{path}/" for path in paths)

    def __call__(self, context: RequestContext) -> None:
        path = context.head.path
        if path not in self._paths and not path.startswith(self._below):
            return
        caller, head = context.caller, context.head
        who = ";".join(quote(part, safe="") for part in (caller.tenant, caller.key, caller.user))
        headers = [(names.CALLER, who)]
        if head.respelled is not None:
            headers.append((":path", head.respelled))
        handover = Handover(
            cluster=names.BATCHES_CLUSTER,
            tenant=caller.tenant,
            set_headers=tuple(headers),
            remove_headers=tuple([name for name in caller.credentials if name in head.headers]),
        )
        refusal = closed(path, None)
        context.answer = Answer(
            refusal.row.status,
            tuple(refusal.headers()),
            refusal.body(anthropic=context.anthropic),
            handover,
        )
