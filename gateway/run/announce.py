"""What `penstock up` says when it is ready, and what is missing until then."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final

from gateway.admin.status import GatewayStatus
from gateway.commands.api import LOCAL
from gateway.config.config import Config
from gateway.config.schema.terms import join_endpoint
from gateway.pools.ports import reachable
from gateway.run.status import UNSEEN, unusable

_BY_FLIGHT: Final = (
    "Used by what is in flight, as their load is not known (where no metrics are expected, say"
    " `engine: openai`):"
)
_LOOK_S: Final = 0.1
_FIRST_VERDICT_S: Final = 3.0
"""A replica that has not answered by then is reported as one that does not answer."""
_LEAST_GAP_S: Final = 2.0
"""Between two reports of what is missing."""
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


class Announcement:
    """Follows the status from the moment that everything was started."""

    def __init__(
        self,
        status: Callable[[], GatewayStatus],
        config: Callable[[], Config],
        say: Callable[[str], None],
    ) -> None:
        self._status = status
        self._config = config
        self._say = say
        self._began_s = time.monotonic()

    async def first_look(self) -> None:
        """Return when it is known of every replica whether it can be used, or soon."""
        until_s = time.monotonic() + _FIRST_VERDICT_S
        while time.monotonic() < until_s and _is_open(self._status()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    async def follow(self) -> None:
        """Return when requests are served, and it was said; until then say what is missing."""
        said, next_s = "", 0.0
        while (status := self._status()).not_ready:
            missing = "\n".join(f"  {line}" for line in status.not_ready)
            same = _NUMBER.sub("", missing)
            if same != said and time.monotonic() >= next_s:
                self._say(f"\nNot ready yet:\n{missing}\n")
                said, next_s = same, time.monotonic() + _LEAST_GAP_S
            await asyncio.sleep(_LOOK_S)
        self._say(self._ready(status))

    def _ready(self, status: GatewayStatus) -> str:
        config, took_s = self._config(), time.monotonic() - self._began_s
        lines = [f"\nReady in {took_s:.1f} s. Status and metrics: {_admin_url(config)}/"]
        for title, about in (
            ("Not used:", unusable(status.pools)),
            (_BY_FLIGHT, _without_load(status)),
        ):
            if about:
                lines += [title, *(f"  {line}" for line in about)]
        if config.envoy.enabled:
            lines += _first_request(config, status)
        return "\n".join(lines) + "\n"


def first_key(config: Config) -> list[str]:
    """Commands that make a key, and a tenant for it when there is none."""
    admin, before, after = config.admin, "", ""
    if (url := _admin_url(config)) != LOCAL:
        after += f" --url {url}"
    if admin.token is not None and admin.token.file is not None:
        after += f" --token-file {admin.token.file}"
    elif admin.token is not None:
        before = f'PENSTOCK_ADMIN_TOKEN="${admin.token.env}" '
    lines = []
    if not config.tenants:
        lines.append(f"  {before}penstock tenants create demo{after}")
    tenant = config.tenants[0].name if config.tenants else "demo"
    lines.append(f"  KEY=$({before}penstock keys create {tenant} --quiet{after})")
    return lines


def _first_request(config: Config, status: GatewayStatus) -> list[str]:
    scheme = "https" if config.listen.tls is not None else "http"
    base = f"{scheme}://{_reachable(config.listen.address, config.listen.port)}"
    body = (
        f'{{"model": "{_example(config, status)}", "max_tokens": 16,'
        ' "messages": [{"role": "user", "content": "Hello"}]}'
    )
    lines = ["Try:"]
    needs_key = config.has_tenants and config.identity_in_force.anonymous is None
    if needs_key and config.identity_in_force.api_keys:
        lines += first_key(config)
    lines.append(f"  curl {base}/v1/chat/completions \\")
    if needs_key:
        lines.append('    -H "authorization: Bearer $KEY" \\')
    return [*lines, "    -H 'content-type: application/json' \\", f"    -d '{body}'"]


def _example(config: Config, status: GatewayStatus) -> str:
    """A model that is served; one of the configuration if there is one."""
    served = [m for pool in status.pools for e in pool.endpoints if e.healthy for m in e.models]
    declared = [pool.example_model for pool in config.pools]
    return next((model for model in declared if model in served), None) or (
        served[0] if served else "MODEL"
    )


def _is_open(status: GatewayStatus) -> bool:
    """Of some replica it is not known yet whether it can be used."""
    endpoints = [endpoint for pool in status.pools for endpoint in pool.endpoints]
    return any(not endpoint.healthy and endpoint.reason in UNSEEN for endpoint in endpoints)


def _without_load(status: GatewayStatus) -> list[str]:
    return [
        f"pool {pool.name}: {endpoint.address}: {endpoint.warning}"
        for pool in status.pools
        for endpoint in pool.endpoints
        if endpoint.warning
    ]


def _admin_url(config: Config) -> str:
    return f"http://{_reachable(config.admin.address, config.admin.port)}"


def _reachable(address: str, port: int) -> str:
    """The address at which a client on this machine reaches a listener."""
    return join_endpoint(reachable(address), port)
