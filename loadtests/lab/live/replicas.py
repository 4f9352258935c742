"""The replicas behind the gateways: simulated ones, which the lab starts, or running ones."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from loadtests.lab import replica_metrics as metrics
from loadtests.lab.live.child import LabChild
from loadtests.lab.source import LabError
from loadtests.sim.model.scheduler import EngineLimits

_START_S: Final = 60.0
_ASK_S: Final = 30.0
_IDLE_S: Final = 120.0
_POLL_S: Final = 0.1
_READY: Final = re.compile(r"^ready .*\bports=(\d+)$", re.MULTILINE)
_OK: Final = 200

MODEL: Final = "lab"
"""The model that the simulated replicas serve."""


class ReplicaError(LabError):
    """A replica cannot do what a comparison needs."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Replicas that the lab starts."""

    profile: str
    """Name of a built-in profile, or a file."""
    limits: EngineLimits
    adapters: tuple[str, ...]
    time_scale: float

    def command(self, seed: int) -> tuple[str, ...]:
        """The command that starts one replica."""
        limits = self.limits
        options = {
            "port": 0,
            "model": MODEL,
            "profile": self.profile,
            "num-blocks": limits.num_blocks,
            "block-size": limits.block_size_tokens,
            "max-num-seqs": limits.max_num_seqs,
            "max-num-batched-tokens": limits.max_num_batched_tokens,
            "max-model-len": limits.max_model_len,
            "time-scale": self.time_scale,
            "seed": seed,
        }
        if self.adapters:
            options |= {"lora": ",".join(self.adapters), "max-loras": limits.max_loras}
        given = (f"--{name}={value}" for name, value in options.items())
        return (sys.executable, "-m", "loadtests.sim", *given)


class ReplicaFleet:
    """Replicas by address (``host:port``)."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        addresses: Sequence[str],
        children: Sequence[LabChild] = (),
    ) -> None:
        """``children``: their processes, when the lab has started them."""
        self.addresses = tuple(addresses)
        self._http = http
        self._children = tuple(children)

    def first(self, count: int) -> ReplicaFleet:
        """The first ``count`` of the replicas."""
        return ReplicaFleet(self._http, self.addresses[:count], self._children[:count])

    def cpu_s(self) -> list[float]:
        """CPU seconds of each replica so far; empty when they are not ours."""
        return [child.cpu_s() for child in self._children]

    async def counters(self) -> list[metrics.ReplicaCounters]:
        """The counters of each replica."""
        return [metrics.counters(page) for page in await self._pages()]

    async def gauges(self) -> list[metrics.ReplicaGauges]:
        """The gauges of each replica."""
        return [metrics.gauges(page) for page in await self._pages()]

    async def settled(self) -> list[metrics.ReplicaCounters]:
        """The counters of each replica, once none has anything to do: a real one publishes the
        counts of its last step shortly after the answer. Raises ReplicaError when that takes too
        long."""
        await self.idle()
        before, now = None, await self.counters()
        while now != before:
            await asyncio.sleep(_POLL_S)
            before, now = now, await self.counters()
        return now

    async def idle(self) -> None:
        """Return when no replica has anything to do. Raises ReplicaError when that takes too
        long."""
        deadline_s = time.monotonic() + _IDLE_S
        while not all(gauges.idle for gauges in await self.gauges()):
            if time.monotonic() > deadline_s:
                raise ReplicaError(f"replicas still have requests {_IDLE_S:g} s after the last")
            await asyncio.sleep(_POLL_S)

    async def forget(self) -> bool:
        """Empty the prefix caches; False when a replica cannot do that."""
        statuses = [
            (await self._asked("POST", address, "/reset_prefix_cache"))[0]
            for address in self.addresses
        ]
        return all(status == _OK for status in statuses)

    async def models(self) -> list[str]:
        """The models that the first replica serves, base model first."""
        page = await self._page(self.addresses[0], "/v1/models")
        try:
            found = orjson.loads(page)["data"]
            entries = sorted(found, key=lambda entry: entry.get("parent") is not None)
            return [str(entry["id"]) for entry in entries]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            address = self.addresses[0]
            raise ReplicaError(f"replica {address}: /v1/models is not as OpenAI's") from error

    async def _pages(self) -> list[bytes]:
        return await asyncio.gather(
            *(self._page(address, "/metrics") for address in self.addresses)
        )

    async def _page(self, address: str, path: str) -> bytes:
        status, page = await self._asked("GET", address, path)
        if status != _OK:
            raise ReplicaError(f"replica {address}: {path} says {status}")
        return page

    async def _asked(self, method: str, address: str, path: str) -> tuple[int, bytes]:
        try:
            async with self._http.request(
                method, f"http://{address}{path}", timeout=_TIMEOUT
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            if self._children:
                problem = self._children[self.addresses.index(address)].problem()
                if problem is not None:
                    raise ReplicaError(str(problem)) from error
            what = str(error) or type(error).__name__
            raise ReplicaError(f"replica {address}: {path}: {what}") from error


_TIMEOUT: Final = aiohttp.ClientTimeout(total=_ASK_S)


@asynccontextmanager
async def started(
    replicas: Simulated, count: int, folder: Path, http: aiohttp.ClientSession
) -> AsyncIterator[ReplicaFleet]:
    """Simulated replicas, each in a process; they are ended on leaving. Raises LabStartError."""
    children: list[LabChild] = []
    try:
        for index in range(count):
            log = folder / f"replica-{index}.log"
            children.append(LabChild(f"replica {index}", replicas.command(index), log))
        addresses = [f"127.0.0.1:{await _port(child)}" for child in children]
        yield ReplicaFleet(http, addresses, children)
    finally:
        await asyncio.gather(*(child.stop() for child in children))


async def _port(child: LabChild) -> int:
    async def ready() -> bool:
        return _READY.search(child.output()) is not None

    await child.until(ready, within_s=_START_S)
    found = _READY.search(child.output())
    assert found is not None
    return int(found[1])


def addresses(text: str) -> tuple[str, ...]:
    """Addresses from ``http://host:port,host:port,...``. Raises LabError."""
    found = tuple(part.strip().removeprefix("http://").rstrip("/") for part in text.split(","))
    for address in found:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in address:
            raise LabError(f"--replica: {address!r} is not as http://host:port")
    if len(set(found)) < len(found):
        raise LabError(f"--replica: one is named twice in {text!r}")
    return found
