"""The simulated replicas of a pool, and what the picker hears of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Final

from loadtests.lab.agenda import Agenda
from loadtests.lab.entry import MODEL
from loadtests.lab.kv_events import KvEvents
from loadtests.lab.outcome import Outcome, Sample
from loadtests.lab.setting import Setting
from loadtests.sim.model.engine import EngineEvent, EngineModel, EventKind
from loadtests.sim.model.request import EngineRequest, Sequence
from picker.core import Picker
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec

POOL: Final = "lab"
_NO_ADAPTERS: Final[frozenset[str]] = frozenset()


class Fleet:
    """Engine models behind a picker. ``on_finished`` gets each sequence that has ended."""

    def __init__(
        self,
        setting: Setting,
        picker: Picker,
        agenda: Agenda,
        outcome: Outcome,
        on_finished: Callable[[Sequence], None],
        *,
        skip: bool,
    ) -> None:
        """``skip``: engines jump over equal steps."""
        self._setting, self._picker, self._agenda = setting, picker, agenda
        self._outcome, self._on_finished = outcome, on_finished
        self._scraped: list[Signals] = []
        """By replica, the signals that the picker knows."""
        self.engines = [
            EngineModel(setting.profile, setting.limits, skip=skip, listener=self._listener(index))
            for index in range(setting.replicas)
        ]
        self.addresses = [_address(index) for index in range(setting.replicas)]
        self._due_s = [inf] * setting.replicas
        """For each engine, when it is looked at next."""
        self._adapters = {""}
        """Adapters seen so far; "" is the base model."""
        self._served_models = [ServedModel(MODEL, None, setting.limits.max_model_len)]

    def open(self, rng: random.Random) -> None:
        """Let the picker know the replicas, and read them from now on."""
        setting = self._setting
        specs = [EndpointSpec(address) for address in self.addresses]
        self._picker.pools.sync_endpoints(POOL, specs)
        self._begin_troubles()
        for index in range(setting.replicas):
            self._scraped.append(self._signals(index))
            self._picker.apply_signals(POOL, self.addresses[index], self._scraped[index], 0.0)
            self._picker.apply_models(POOL, self.addresses[index], self._served_models, 0.0)
            # As in life, replicas are not read at the same moment.
            first_s = rng.uniform(0.0, setting.seeing.scrape_interval_s)
            self._agenda.at(first_s, lambda index=index: self._scrape(index))  # type: ignore[misc]

    # -- requests

    def add(self, index: int, asked: EngineRequest) -> Sequence:
        """A request arrives at a replica. Raises ValueError for one that is longer than its
        context."""
        self._look(index)
        sequence = self.engines[index].add(asked, self._agenda.now_s)
        self._expect(index)
        return sequence

    def abort(self, index: int, sequence: Sequence) -> None:
        """The client of a request has left."""
        self._hear(self.engines[index].abort(sequence, self._agenda.now_s))
        self._expect(index)

    def serve_adapter(self, adapter: str) -> None:
        """Every replica lists the adapter, as with vLLM's ``--lora-modules``; it takes a slot when
        used."""
        if adapter in self._adapters:
            return
        self._adapters.add(adapter)
        limit = self._setting.limits.max_model_len
        self._served_models.append(ServedModel(adapter, MODEL, limit))
        for address in self.addresses:
            self._picker.apply_models(POOL, address, self._served_models, self._agenda.now_s)

    def hear_first_tokens(self) -> None:
        """What a router in the way of the streams knows: the engines' first tokens until now. All
        other signals stay as they were scraped."""
        for index, engine in enumerate(self.engines):
            self._look(index)
            heard = replace(self._scraped[index], first_tokens=engine.first_tokens)
            self._know(index, heard, self._agenda.now_s)

    def best_cached_tokens(self, prompt_tokens: int, blocks: tuple[int, ...]) -> int:
        """The most tokens of a prompt that a replica has in its cache now."""
        size = self._setting.limits.block_size_tokens
        usable = blocks[: (prompt_tokens - 1) // size]
        pools = (engine.scheduler.pool for engine in self.engines)
        return size * max(len(pool.match(usable)) for pool in pools)

    def sample(self) -> None:
        """Note the state of every replica."""
        for index, engine in enumerate(self.engines):
            self._look(index)
            self._outcome.samples.append(
                Sample(
                    self._agenda.now_s,
                    index,
                    engine.running_sequences,
                    engine.waiting_sequences,
                    engine.kv_usage,
                )
            )

    # -- troubles

    def _begin_troubles(self) -> None:
        troubles, replicas = self._setting.troubles, self._setting.replicas
        for engine in self.engines[: round(troubles.slow_share * replicas)]:
            engine.slow_down(1.0 / troubles.slow_speed, 0.0)
        if troubles.degrade_at_s < inf:
            self._agenda.at(troubles.degrade_at_s, self._degrade)

    def _degrade(self) -> None:
        index = self._setting.replicas - 1
        speed = self._setting.troubles.degrade_speed
        self._hear(self.engines[index].slow_down(1.0 / speed, self._agenda.now_s))
        self._expect(index)

    # -- what the picker hears

    def _listener(self, slot: int) -> KvEvents | None:
        """What takes in an engine's events; its endpoint is the slot's."""
        if not self._setting.kv_events:
            return None
        feed = self._picker.pools[POOL].cache.join(slot)
        return KvEvents(feed, lambda: self._agenda.now_s, self._setting.limits.block_size_tokens)

    def _scrape(self, index: int) -> None:
        seeing, engine, agenda = self._setting.seeing, self.engines[index], self._agenda
        self._look(index)
        address, read_s = self.addresses[index], agenda.now_s
        if read_s >= self._setting.troubles.deaf_from_s:
            agenda.at(
                read_s + seeing.scrape_delay_s,
                lambda: self._picker.apply_lack(POOL, address, Lack.SIGNALS, "no answer", read_s),
            )
        else:
            signals = self._signals(index)
            agenda.at(read_s + seeing.scrape_delay_s, lambda: self._know(index, signals, read_s))
        idle = engine.idle
        interval_s = seeing.idle_scrape_interval_s if idle else seeing.scrape_interval_s
        agenda.at(agenda.now_s + interval_s, lambda: self._scrape(index))

    def _know(self, index: int, signals: Signals, read_s: float) -> None:
        self._scraped[index] = signals
        self._picker.apply_signals(POOL, self.addresses[index], signals, read_s)

    def _signals(self, index: int) -> Signals:
        engine, limits = self.engines[index], self._setting.limits
        base_only = len(self._adapters) == 1
        return Signals(
            waiting_requests=engine.waiting_sequences,
            running_requests=engine.running_sequences,
            kv_usage=engine.kv_usage,
            kv_capacity_tokens=limits.num_blocks * limits.block_size_tokens,
            kv_block_tokens=limits.block_size_tokens,
            max_loras=limits.max_loras,
            running_adapters=_NO_ADAPTERS if base_only else _adapters(engine.scheduler.running),
            waiting_adapters=_NO_ADAPTERS if base_only else _adapters(engine.scheduler.waiting),
            first_tokens=engine.first_tokens,
        )

    # -- engines

    def _look(self, index: int) -> None:
        """Let an engine's time pass until now, and handle its events."""
        engine = self.engines[index]
        if not engine.idle:
            self._hear(engine.advance(self._agenda.now_s))

    def _expect(self, index: int) -> None:
        """Plan to look at an engine when something happens in it next."""
        at_s = self.engines[index].next_event_s()
        if at_s < self._due_s[index]:
            self._due_s[index] = at_s
            self._agenda.at(at_s, lambda: self._wake(index, at_s))

    def _wake(self, index: int, due_s: float) -> None:
        if self._due_s[index] == due_s:
            self._due_s[index] = inf
        self._look(index)
        self._expect(index)

    def _hear(self, events: list[EngineEvent]) -> None:
        for event in events:
            if event.kind is EventKind.PREEMPTED:
                self._outcome.preemptions += 1
            elif event.kind is EventKind.FINISHED:
                self._on_finished(event.sequence)


def _adapters(sequences: Iterable[Sequence]) -> frozenset[str]:
    return frozenset(sequence.adapter for sequence in sequences if sequence.adapter)


def _address(index: int) -> str:
    return f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}:8000"
