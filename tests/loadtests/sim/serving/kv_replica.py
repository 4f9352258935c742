"""The engine model with KV events, driven as a replica drives it, without HTTP."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import inf

from loadtests.sim.model.engine import EngineModel
from loadtests.sim.model.profile import built_in
from loadtests.sim.model.request import EngineRequest
from loadtests.sim.model.request import Sequence as Running
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.kv_events import KvEvents


def tokens(ids: Sequence[int]) -> bytes:
    return array("I", ids).tobytes()


class Replica:
    """An engine and its events, in virtual time."""

    def __init__(self, events: KvEvents, limits: EngineLimits, *, leaps: bool = False) -> None:
        self.events = events
        self.engine = EngineModel(built_in("constant-step"), limits, listener=events)
        self.now_s = 0.0
        self.advances = 0
        self._next_s = self.engine.next_event_s if leaps else self.engine.next_step_s
        self._open: list[tuple[Running, tuple[int, ...]]] = []

    def send(
        self,
        prompt: Sequence[int],
        answer: Sequence[int] = (1,),
        *,
        adapter: str | None = None,
        cache_salt: str = "",
        session_id: str | None = None,
    ) -> tuple[int, ...]:
        """Ids of its blocks."""
        everything = (*prompt, *answer)
        size = self.engine.scheduler.limits.block_size_tokens
        ids = tuple(
            hash((adapter, cache_salt, everything[:end])) & (2**63 - 1)
            for end in range(size, len(everything) + 1, size)
        )
        self.events.announce(
            ids, tokens(everything), adapter, cache_salt=cache_salt, session_id=session_id
        )
        request = EngineRequest(f"r{len(self._open)}", len(prompt), len(answer), ids, adapter)
        self._open.append((self.engine.add(request, self.now_s), ids))
        return ids

    def run(self, until_s: float = inf) -> None:
        """Until then or nothing is left to do, telling as it goes."""
        while (next_s := self._next_s()) <= until_s and next_s < inf:
            self.now_s = next_s
            self.advances += 1
            self.engine.advance(next_s)
            self.events.flush()
        if self.engine.idle:
            for _, ids in self._open:
                self.events.withdraw(ids)
            self._open.clear()

    def ask(self, prompt: Sequence[int], answer: Sequence[int] = (1,)) -> tuple[int, ...]:
        ids = self.send(prompt, answer)
        self.run()
        return ids
