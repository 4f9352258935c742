"""What is done to an engine between its steps, as in vLLM: sleep, wake, pause, load an adapter.

Such calls run one after another, and nothing is computed while one of them runs. How long they take
follows from the profile: the weights of one accelerator over its link to the host.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from typing import Literal, Protocol, TypeVar

from loadtests.sim.model.profile import Profile

PauseMode = Literal["abort", "wait", "keep"]
"""What happens to running requests: ended at once, run to their end, or kept for later."""

_MEMORY = frozenset(("weights", "kv_cache"))
_DRAIN_POLL_S = 0.005

T = TypeVar("T")


class PausableEngine(Protocol):
    """The part of an engine that is controlled. Repeating pause or resume has no effect."""

    @property
    def running_requests(self) -> int:
        """Requests in the batch."""
        ...

    def pause(self, *, drain: bool = False) -> None:
        """Compute nothing; with ``drain``, only admit no further request."""
        ...

    def resume(self) -> None:
        """Go on where it stopped."""
        ...

    def slow_down(self, factor: float) -> None:
        """Steps take ``factor`` times as long."""
        ...

    def abort_all(self) -> None:
        """End all running and waiting requests, with finish reason "abort"."""
        ...

    def forget_prefixes(self, *, running: bool = False) -> bool:
        """Empty the prefix cache. While requests run it does nothing and returns False, unless they
        start over (``running``)."""
        ...

    def load_adapter(self, adapter: str) -> None:
        """Put an adapter's weights into a slot, if one is available."""
        ...


class EngineControl:
    """Sleep, wake, pause and resume of one engine, with the states of vLLM 0.32."""

    def __init__(
        self, engine: PausableEngine, profile: Profile, *, time_scale: float = 1.0
    ) -> None:
        self.engine = engine
        self._profile = profile
        self._time_scale = time_scale
        self._holds: set[str] = set()
        self._turn = asyncio.Lock()
        self._adapter_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._calls: set[asyncio.Task[object]] = set()
        self._paused = False
        self._draining = 0
        self._away: set[str] = set()
        """Parts of the memory that are given away."""
        self._weights_level = 1
        """Level of the sleep in which the weights were given away."""
        self._shown_level: int | None = None
        """The level that /metrics shows; None: awake."""

    @property
    def is_paused(self) -> bool:
        """Whether requests wait for `resume`."""
        return self._paused

    @property
    def is_sleeping(self) -> bool:
        """As vLLM reports it: true at any level, and while paused."""
        return self._paused or bool(self._away)

    def sleep_state(self) -> dict[str, int]:
        """Values of the gauge vllm:engine_sleep_state by its label sleep_state."""
        return {
            "awake": int(self._shown_level is None),
            "weights_offloaded": int(self._shown_level == 1),
            "discard_all": int(self._shown_level == 2),
        }

    def hold(self, reason: str) -> None:
        """The engine computes nothing until `let_go` of this and all other reasons."""
        self._holds.add(reason)
        self._set()

    def let_go(self, reason: str) -> None:
        """Remove one reason to hold the engine, if it is there."""
        self._holds.discard(reason)
        self._set()

    async def pause(self, mode: PauseMode, *, clear_cache: bool = True) -> None:
        """Stop scheduling. Requests that arrive are accepted, and wait."""
        await self.carry_out(self._pause(mode, clear_cache))

    def resume(self) -> None:
        """Schedule again; while memory is given away, nothing is computed."""
        self._paused = False
        self.let_go("paused")

    async def sleep(self, level: int, mode: PauseMode) -> None:
        """Pause, and from level 1 on forget all KV and give the memory away."""
        await self.carry_out(self._sleep(level, mode))

    async def wake_up(self, tags: list[str] | None) -> bool:
        """Get back parts of the memory, all of them for None. True when nothing is missing any
        more.

        The tag "scheduling" stands for no memory. A tag of memory that is not given away ends the
        call without any effect, as in vLLM.
        """
        return await self.carry_out(self._wake_up(tags))

    async def load_adapter(self, adapter: str) -> None:
        """Bring an adapter's weights to the accelerator; the engine is stopped meanwhile."""
        async with self._turn:
            self.hold("adapter")
            try:
                await self._spend(self._profile.adapter_load_s)
                self.engine.load_adapter(adapter)
            finally:
                self.let_go("adapter")

    async def carry_out(self, call: Coroutine[object, object, T]) -> T:
        """Run the call to its end, even when the client that sent it goes away."""
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return await asyncio.shield(task)

    def adapter_lock(self, adapter: str) -> asyncio.Lock:
        """A lock, so that loads and unloads of one name run one after another."""
        return self._adapter_locks[adapter]

    async def _pause(self, mode: PauseMode, clear_cache: bool) -> None:
        self._paused = True
        if mode == "abort":
            self.engine.abort_all()
        if mode == "wait":
            await self._drain()
        if self._paused:
            self._holds.add("paused")
        self._set()
        if clear_cache:
            self.engine.forget_prefixes(running=True)

    async def _drain(self) -> None:
        """Wait until no request runs. Waiting requests keep waiting, unless the engine is
        resumed."""
        self._draining += 1
        self._set()
        while self.engine.running_requests:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(_DRAIN_POLL_S)
        self._draining -= 1

    async def _sleep(self, level: int, mode: PauseMode) -> None:
        await self._pause(mode, clear_cache=level >= 1)
        if level:
            async with self._turn:
                await self._give_away(level)
        self._shown_level = level

    async def _give_away(self, level: int) -> None:
        if "weights" in self._away:
            return
        self.hold("memory")
        await self._spend(self._sleep_s(level))
        self._away = set(_MEMORY)
        self._weights_level = level

    async def _wake_up(self, tags: list[str] | None) -> bool:
        async with self._turn:
            wanted = set(self._away if tags is None else tags) - {"scheduling"}
            if wanted and wanted <= self._away:
                await self._spend(self._wake_s(wanted))
                self._away -= wanted
            if self._away:
                return False
        self._shown_level = None
        self.let_go("memory")
        self.resume()
        return True

    def _set(self) -> None:
        if self._holds:
            self.engine.pause()
        elif self._draining and self._paused:
            self.engine.pause(drain=True)
        else:
            self.engine.resume()

    def _sleep_s(self, level: int) -> float:
        """Level 1 saves the weights in the host's memory, level 2 drops them."""
        return self._profile.remap_s + (self._copy_s() if level == 1 else 0.0)

    def _wake_s(self, tags: Iterable[str]) -> float:
        """The time for these parts. After level 2, vLLM leaves loading the weights to others."""
        copied = "weights" in tags and self._weights_level == 1
        return self._profile.remap_s + (self._copy_s() if copied else 0.0)

    def _copy_s(self) -> float:
        profile = self._profile
        weight_bytes = profile.model.weight_bytes / profile.tensor_parallel
        return weight_bytes / profile.host_bandwidth_bytes_per_s

    async def _spend(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._time_scale)
