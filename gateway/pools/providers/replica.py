"""One replica that is a process of ours, and how it is started."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from gateway.children.child import Backoff, Child, ChildSpec, ChildState, Launch
from gateway.config.schema.pools import Ready, Restart, Stop
from gateway.config.schema.terms import join_endpoint
from gateway.pools.ports import free_port, reachable, try_port
from gateway.pools.provider import ReplicaRecord, ReplicaState
from picker.state.spec import KvPorts

_PROBE_TIMEOUT_S: Final = 5.0
_KV_EVENTS_PORT: Final = "{kv_events_port}"
_KV_REPLAY_PORT: Final = "{kv_replay_port}"

_STATES: Final = {
    ChildState.IDLE: ReplicaState.STARTING,
    ChildState.STARTING: ReplicaState.STARTING,
    ChildState.READY: ReplicaState.READY,
    ChildState.ENDED: ReplicaState.BACKOFF,
    ChildState.BACKOFF: ReplicaState.BACKOFF,
    ChildState.STOPPING: ReplicaState.STOPPING,
    ChildState.STOPPED: ReplicaState.STOPPING,
}


@dataclass(frozen=True, slots=True)
class LaunchTemplate:
    """What replicas execute; a replica of another template has to be replaced."""

    command: tuple[str, ...]
    """With `{port}`, `{host}`, `{index}`, `{seed}`, `{kv_events_port}` and `{kv_replay_port}` to
    fill in."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """On top of this process's environment. May hold secrets."""
    cwd: Path | None = None
    host: str = "127.0.0.1"
    first_port: int | None = None
    first_seed: int = 0

    def names(self, placeholder: str) -> bool:
        """Whether something has to be filled in there."""
        return any(placeholder in text for text in (*self.command, *self.env.values()))


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """How a pool's replicas are run."""

    launch: LaunchTemplate
    ready: Ready
    stop: Stop
    restart: Restart
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What every request to the replicas carries. May hold secrets."""


class Replica:
    """One process. Its address is known once it has been started; it changes with a restart unless
    the port is fixed."""

    def __init__(
        self,
        pool: str,
        index: int,
        plan: ReplicaPlan,
        *,
        http: aiohttp.ClientSession,
        taken_ports: Callable[[], Collection[int]],
        log_dir: Path | None,
        on_state: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self.index = index
        self.plan = plan
        self.draining = False
        """Finishes its requests; `drain` and `undrain` change it."""
        self._drained = asyncio.Event()
        self.port: int | None = None
        self.kv_events: KvPorts | None = None
        """Where it publishes KV events, if it was given a port for them."""
        self._http = http
        self._taken_ports = taken_ports
        self._rng = rng
        self._name = f"{pool}-{index}"
        self.child = Child(
            ChildSpec(
                name=f"replica {self._name}",
                launch=self._launch,
                ready=self._answers,
                ready_timeout_s=plan.ready.timeout_s,
                ready_interval_s=plan.ready.interval_s,
                grace_s=plan.stop.grace_s,
                backoff=Backoff(
                    initial_s=plan.restart.initial_backoff_s,
                    max_s=plan.restart.max_backoff_s,
                    stable_after_s=plan.restart.stable_after_s,
                ),
                death_signal=signal.SIGTERM,  # engines have processes of their own to end
                log_file=None if log_dir is None else log_dir / f"{self._name}.log",
            ),
            on_state=lambda _child: on_state(),
            rng=rng,
        )

    @property
    def ready(self) -> bool:
        """Whether requests can go to it."""
        return self.child.state is ChildState.READY

    @property
    def address(self) -> str | None:
        """``ip:port``, or None before its first start."""
        if self.port is None:
            return None
        return join_endpoint(reachable(self.plan.launch.host), self.port)

    @property
    def ports(self) -> set[int]:
        """All that it was given."""
        kv = self.kv_events
        given = (self.port, None, None) if kv is None else (self.port, kv.port, kv.replay_port)
        return {port for port in given if port is not None}

    def drain(self) -> None:
        """Finish the requests, when it can have any."""
        self.draining = self.ready
        self._drained.clear()

    def undrain(self) -> None:
        """Serve again, or end: there is nothing to finish."""
        self.draining = False

    def drained(self) -> None:
        """It has no request any more."""
        self._drained.set()

    async def wait_drained(self) -> None:
        """Return when it has no request any more."""
        if self.draining:
            await self._drained.wait()

    def record(self) -> ReplicaRecord:
        """The replica as it is now."""
        state = _STATES[self.child.state]
        if self.draining and state is ReplicaState.READY:
            state = ReplicaState.DRAINING
        return ReplicaRecord(
            name=self._name,
            state=state,
            address=self.address,
            pid=self.child.pid,
            restarts=self.child.restarts,
            last_error=None if self.child.last_exit is None else str(self.child.last_exit),
        )

    def _launch(self) -> Launch:
        template = self.plan.launch
        if template.first_port is None:
            self.port = free_port(template.host, self._taken_ports(), self._rng)
        else:
            self.port = template.first_port + self.index
            try:
                try_port(template.host, self.port)
            except OSError as error:
                where = f"{template.host} port {self.port}"
                raise OSError(f"{where} is used by another program") from error
        self.kv_events = None
        if template.names(_KV_EVENTS_PORT):
            self.kv_events = KvPorts(self._one_more_port())
            if template.names(_KV_REPLAY_PORT):
                self.kv_events = KvPorts(self.kv_events.port, self._one_more_port())
        values = {
            "{port}": str(self.port),
            _KV_EVENTS_PORT: str(self.kv_events.port if self.kv_events else ""),
            _KV_REPLAY_PORT: str(self.kv_events.replay_port or "" if self.kv_events else ""),
            "{host}": template.host,
            "{index}": str(self.index),
            "{seed}": str(template.first_seed + self.index),
        }
        env = {key: _filled(value, values) for key, value in template.env.items()}
        command = tuple(_filled(argument, values) for argument in template.command)
        return Launch(command, {**os.environ, **env}, template.cwd)

    def _one_more_port(self) -> int:
        taken = {*self._taken_ports(), *self.ports}
        return free_port(self.plan.launch.host, taken, self._rng)

    async def _answers(self) -> bool:
        try:
            async with self._http.get(
                f"http://{self.address}{self.plan.ready.path}",
                headers=self.plan.headers,
                timeout=aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                return response.status == 200
        except aiohttp.ClientError:  # not listening yet, or not yet with HTTP
            return False


def _filled(text: str, values: Mapping[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
