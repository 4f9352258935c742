"""Step: what the replicas of the pool are sent beside the request: their key, their host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from picker import names
from picker.request.context import RequestContext
from picker.state.pool import PoolRuntime

_HOST: Final = "host"


class Forward:
    """Sets the headers of the pool's settings. Where the gateway has a key of its own for the
    replicas, what a client has sent to identify itself does not reach them."""

    def __init__(self, pools: Mapping[str, PoolRuntime]) -> None:
        self._pools = pools

    def __call__(self, context: RequestContext) -> None:
        pool = self._pools.get(context.pool)
        if pool is None or not pool.settings.set_headers:
            return
        given = pool.settings.set_headers
        context.set_headers += [
            (names.AUTHORITY if name == _HOST else name, value) for name, value in given
        ]
        if any(name in names.CREDENTIALS for name, _ in given):
            context.remove_headers += names.CREDENTIALS
