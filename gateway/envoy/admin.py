"""Envoy's admin interface, over its unix socket."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import aiohttp
import orjson

_TIMEOUT_S: Final = 2.0


class EnvoyAdmin:
    """The few questions that we ask Envoy. Each raises OSError when it does not answer."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            base_url="http://envoy",
            connector=aiohttp.UnixConnector(path=str(socket)),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            raise_for_status=True,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def serving(self) -> bool:
        """Whether Envoy is live and listens for clients."""
        await self._text("GET", "/ready")
        return "clients::" in await self._text("GET", "/listeners")

    async def refused(self) -> list[str]:
        """Why Envoy refused parts of its configuration, a text for each."""
        dump = orjson.loads(await self._text("GET", "/config_dump"))
        found = []
        for part in dump.get("configs", []):
            for key in ("dynamic_listeners", "dynamic_active_clusters", "dynamic_warming_clusters"):
                for resource in part.get(key, []):
                    state = resource.get("error_state")
                    if state:
                        found.append(str(state.get("details", state)))
        return found

    async def active_requests(self) -> int:
        """Number of clients' requests under way."""
        name = "http.clients.downstream_rq_active"
        text = await self._text("GET", f"/stats?filter=^{name}$")
        _, _, value = text.strip().partition(": ")
        return int(value) if value.isdigit() else 0

    async def let_go(self) -> None:
        """Close each connection after its next answer. New ones are still served."""
        await self._text("POST", "/drain_listeners?graceful&skip_exit")

    async def drain(self) -> None:
        """Close the listeners. Running requests go on, and their connections close after them."""
        await self.let_go()
        await self._text("POST", "/drain_listeners")

    async def _text(self, method: str, path: str) -> str:
        try:
            async with self._session.request(method, path) as response:
                return await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(f"Envoy's admin interface: {error}") from error
