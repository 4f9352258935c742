"""Step: the stored response that a request is about, and the replica that has it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from picker.prompt.forms import Form
from picker.request.caller import ANONYMOUS
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.request.response_ids import Held, ResponseIds
from picker.state.pools import Pools

PREVIOUS: Final = "previous_response_id"
_RESPONSES: Final = "/v1/responses/"
_STORED: Final = re.compile(r"/v1/responses/(?P<id>[^/]+)(?P<part>/cancel|/input_items)?/?")


class Recall:
    """404 for an id that is not the tenant's, and for one whose replica is gone. Without tenants an
    id that no picker has issued passes as it is: the replica judges it."""

    def __init__(self, pools: Pools, ids: ResponseIds) -> None:
        self._pools = pools
        self._ids = ids

    def __call__(self, context: RequestContext) -> None:
        path = context.head.path
        stored = _STORED.fullmatch(path)
        if stored is not None and context.head.sends and not stored["part"]:
            stored = None  # no id: /v1/responses/compact and its like
        if stored is not None:
            given, param = stored["id"], None
        elif context.document is not None and (
            context.form is Form.RESPONSES or path.startswith(_RESPONSES)
        ):
            given, param = context.document.get(PREVIOUS), PREVIOUS
        else:
            return
        if not isinstance(given, str) or not given:
            return
        held = self._ids.read(given, context.caller.tenant)
        if held is None:
            if context.caller.tenant != ANONYMOUS:
                raise _gone(given, param, "There is no response with the id {!r}.")
            return
        where = self._where(held)
        if where is None:
            raise _gone(given, param, "The response {!r} is gone with the replica that stored it.")
        context.pool, context.holder = where
        context.response_id, context.given_response_id = held.id, given
        if stored is not None:
            context.new_path = _path(context, given, held.id)

    def _where(self, held: Held) -> tuple[str, str] | None:
        """Pool and address of the replica."""
        for name, pool in self._pools.items():
            for address in pool.state.slot_of:
                if self._ids.tag(address) == held.tag:
                    return name, address
        return None


def _path(context: RequestContext, given: str, held: str) -> str:
    """The request's path with the id that the replica knows."""
    head = context.head
    spelled = head.respelled or head.headers.get(":path", head.path)
    path, mark, query = spelled.partition("?")
    if given not in path:  # escaped, where nothing has to be
        path = quote(head.path)
    return path.replace(given, held, 1) + mark + query


def _gone(given: str, param: str | None, message: str) -> Rejection:
    return Rejection(Reason.RESPONSE_NOT_FOUND, message.format(given[:256]), param=param)
