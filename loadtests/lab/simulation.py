"""A run in virtual time: traffic, the live picker, engine models. It skips from event to event.

The picker is the one that serves real requests, entered where these enter it: every step of a
request's way, ledger, prefix index, sessions, scraped signals with their age, reports with their
delay. Only the step that parses a body is another one: prompts come as block hashes.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine, Generator, Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from loadtests.lab.kv_events import KvEvents
from loadtests.lab.outcome import REFUSED, Outcome, Sample, Served
from loadtests.lab.setting import Setting
from loadtests.sim.model.engine import EngineEvent, EngineModel, EventKind
from loadtests.sim.model.request import EngineRequest, Sequence
from loadtests.workloads.sessions import Request
from loadtests.workloads.traffic import Traffic
from loadtests.workloads.words import BYTES_PER_TOKEN
from picker import names
from picker.core import Parts, Picker
from picker.prompt.blocks import HASH_MASK
from picker.prompt.fields import RequestFields
from picker.prompt.forms import Prompt
from picker.prompt.token_blocks import PromptTokens
from picker.request.answer import Answer, Decision
from picker.request.caller import Caller
from picker.request.choice import Choice
from picker.request.context import RequestContext
from picker.request.head import RequestHead
from picker.request.report import Ending, Report
from picker.settings import PickerSettings, PoolSettings
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from policies.limits.plan import TenantPolicy

POOL: Final = "lab"
MODEL: Final = "model"
_SAMPLE_S: Final = 1.0
_LEASE_S: Final = 1e9
_STALE_AFTER_S: Final = 5.0
"""As a gateway has it by default."""
_NO_ADAPTERS: Final[frozenset[str]] = frozenset()


class _Read:
    """Fills in what parsing a body would: see `picker.pipeline.steps.Tools.read`."""

    def __init__(self, block_tokens: int | None) -> None:
        """``block_tokens``: of the engines' blocks, None when the tokens of prompts are not
        known."""
        self._block_tokens = block_tokens
        self.asked: Request | None = None
        """The request that is being offered."""

    def __call__(self, context: RequestContext) -> None:
        asked = self.asked
        assert asked is not None
        context.asked_model = asked.adapter or MODEL
        context.fields = RequestFields(
            model=context.asked_model,
            stream=True,
            include_usage=True,
            max_output_tokens=asked.max_tokens,
            choices=1,
            cache_salt=None,
            user=None,
            session_id=None,
        )
        if asked.tenant:
            context.caller = Caller(TenantPolicy(asked.tenant))
        context.prompt = Prompt((b"",), asked.prompt_tokens * BYTES_PER_TOKEN, 0)
        context.blocks = asked.live_blocks(MODEL)
        size = self._block_tokens
        if size is not None:
            ids = asked.block_ids(size)[: asked.prompt_tokens // size]
            chain = [block_id & HASH_MASK for block_id in ids]
            context.tokens = PromptTokens.of_chain(chain, size, asked.prompt_tokens)


class _Hold:
    """See `Hold`: a coroutine that waits for one yields it."""

    def __init__(self) -> None:
        self.released: Callable[[], None] | None = None
        self._free = False

    def release(self) -> None:
        """See `Hold`."""
        if not self._free and self.released is not None:
            self.released()
        self._free = True

    def __await__(self) -> Generator[_Hold, None, None]:
        if not self._free:
            yield self


_Offered = Coroutine[_Hold, None, tuple[Decision, Choice] | None]
"""A request on its way through the picker."""


@dataclass(slots=True)
class _UnderWay:
    """A request between its decision and its end."""

    request: Request
    decision: Decision
    choice: Choice
    replica: int
    blocks: tuple[int, ...]
    """KV block ids of prompt and answer."""
    best_cached_tokens: int
    repeated_tokens: int
    sequence: Sequence | None = None


class Simulation:
    """One simulated run; it runs once. Everything random comes from ``seed``."""

    def __init__(
        self,
        setting: Setting,
        traffic: Traffic,
        *,
        seed: int,
        skip: bool = True,
        on_progress: Callable[[float, int], None] | None = None,
    ) -> None:
        """``skip``: engines jump over equal steps, which changes only how long the simulation
        takes. ``on_progress`` is called from time to time with the virtual time and the number of
        requests served."""
        self.now_s = 0.0
        self._setting = setting
        self._traffic = traffic
        self._on_progress = on_progress
        self._outcome = Outcome()
        self._rng = random.Random(f"lab/{seed}")
        size = setting.limits.block_size_tokens
        self._read = _Read(size if setting.kv_events else None)
        self._picker = Picker(
            "lab",
            Parts(read=self._read, holding=self),
            now=lambda: self.now_s,
            rng=random.Random(f"picker/{seed}"),
        )
        pool = PoolSettings(POOL, setting.policy, (MODEL,), default=True, queue=setting.queue)
        stale_after_s = max(_STALE_AFTER_S, 4 * setting.seeing.scrape_interval_s)
        self._picker_settings = PickerSettings(
            (pool,), lease_s=_LEASE_S, stale_after_s=stale_after_s
        )
        self._hears_first_tokens = getattr(setting.policy.build(), "hears_first_tokens", False)
        self._asked: set[int] = set()
        """KV blocks of all prompts and answers until now."""
        self._scraped: list[Signals] = []
        """By replica, the signals that the picker knows."""
        self._picker.configure(self._picker_settings)
        self._engines = [
            EngineModel(setting.profile, setting.limits, skip=skip, listener=self._listener(index))
            for index in range(setting.replicas)
        ]
        self._addresses = [_address(index) for index in range(setting.replicas)]
        self._replica_of = {address: index for index, address in enumerate(self._addresses)}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._pushed = 0
        self._due_s = [inf] * setting.replicas
        """For each engine, when it is looked at next."""
        self._by_sequence: dict[Sequence, _UnderWay] = {}
        self._adapters = {""}
        """Adapters seen so far; "" is the base model."""
        self._arrival_s: float | None = None
        self._arrival_known = False
        """Whether ``_arrival_s`` still holds: nothing has happened to the traffic since it was
        asked."""
        self._served_models = [ServedModel(MODEL, None, setting.limits.max_model_len)]

    def run(self) -> Outcome:
        """Run until the traffic has ended and every request is answered."""
        self._open_pool()
        while True:
            arrival_s = self._next_arrival_s()
            event_s = self._heap[0][0] if self._heap else inf
            if arrival_s is not None and arrival_s <= event_s:
                self.now_s = max(self.now_s, arrival_s)
                self._arrival_known = False
                for request in self._traffic.take(self.now_s):
                    self._arrive(request)
            elif arrival_s is not None or self._traffic.in_flight:
                self._step()
            else:
                break
        outcome = self._outcome
        outcome.duration_s = self.now_s
        outcome.busy_s = [engine.busy_s for engine in self._engines]
        outcome.steps = sum(engine.steps for engine in self._engines)
        return outcome

    def _next_arrival_s(self) -> float | None:
        """Asks the traffic again only when its answer may have changed: most events are scrapes."""
        if not self._arrival_known:
            self._arrival_s = self._traffic.next_s()
            self._arrival_known = True
        return self._arrival_s

    def _step(self) -> None:
        at_s, _, act = heapq.heappop(self._heap)
        self.now_s = max(self.now_s, at_s)
        act()

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (at_s, self._pushed, act))

    # -- the pool

    def _listener(self, slot: int) -> KvEvents | None:
        """What takes in an engine's events; its endpoint is the slot's."""
        if not self._setting.kv_events:
            return None
        feed = self._picker.pools[POOL].cache.join(slot)
        return KvEvents(feed, lambda: self.now_s, self._setting.limits.block_size_tokens)

    def _open_pool(self) -> None:
        setting = self._setting
        self._picker.pools.sync_endpoints(
            POOL, [EndpointSpec(address) for address in self._addresses]
        )
        self._begin_troubles()
        for index in range(setting.replicas):
            self._scraped.append(self._signals(index))
            self._picker.apply_signals(POOL, self._addresses[index], self._scraped[index], 0.0)
            self._picker.apply_models(POOL, self._addresses[index], self._served_models, 0.0)
            # As in life, replicas are not read at the same moment.
            first_s = self._rng.uniform(0.0, setting.seeing.scrape_interval_s)
            self._at(first_s, lambda index=index: self._scrape(index))  # type: ignore[misc]
        self._at(0.0, self._sample)

    def _begin_troubles(self) -> None:
        troubles, replicas = self._setting.troubles, self._setting.replicas
        for engine in self._engines[: round(troubles.slow_share * replicas)]:
            engine.slow_down(1.0 / troubles.slow_speed, 0.0)
        if troubles.degrade_at_s < inf:
            self._at(troubles.degrade_at_s, self._degrade)

    def _degrade(self) -> None:
        index = self._setting.replicas - 1
        speed = self._setting.troubles.degrade_speed
        self._hear(self._engines[index].slow_down(1.0 / speed, self.now_s))
        self._expect(index)

    def _serve_adapter(self, adapter: str) -> None:
        """Every replica lists the adapter, as with vLLM's ``--lora-modules``; it takes a slot when
        used."""
        self._adapters.add(adapter)
        limit = self._setting.limits.max_model_len
        self._served_models.append(ServedModel(adapter, MODEL, limit))
        for address in self._addresses:
            self._picker.apply_models(POOL, address, self._served_models, self.now_s)

    def _scrape(self, index: int) -> None:
        seeing, engine = self._setting.seeing, self._engines[index]
        self._look(index)
        address, read_s = self._addresses[index], self.now_s
        if read_s >= self._setting.troubles.deaf_from_s:
            self._at(
                read_s + seeing.scrape_delay_s,
                lambda: self._picker.apply_lack(POOL, address, Lack.SIGNALS, "no answer", read_s),
            )
        else:
            signals = self._signals(index)
            self._at(read_s + seeing.scrape_delay_s, lambda: self._know(index, signals, read_s))
        idle = engine.idle
        interval_s = seeing.idle_scrape_interval_s if idle else seeing.scrape_interval_s
        self._at(self.now_s + interval_s, lambda: self._scrape(index))

    def _know(self, index: int, signals: Signals, read_s: float) -> None:
        self._scraped[index] = signals
        self._picker.apply_signals(POOL, self._addresses[index], signals, read_s)

    def _hear_first_tokens(self) -> None:
        """What a router in the way of the streams knows: the engines' first tokens until now. All
        other signals stay as they were scraped."""
        for index, engine in enumerate(self._engines):
            self._look(index)
            heard = replace(self._scraped[index], first_tokens=engine.first_tokens)
            self._know(index, heard, self.now_s)

    def _signals(self, index: int) -> Signals:
        engine, limits = self._engines[index], self._setting.limits
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

    def _sample(self) -> None:
        for index, engine in enumerate(self._engines):
            self._look(index)
            self._outcome.samples.append(
                Sample(
                    self.now_s,
                    index,
                    engine.running_sequences,
                    engine.waiting_sequences,
                    engine.kv_usage,
                )
            )
        if self._on_progress is not None:
            self._on_progress(self.now_s, len(self._outcome.served))
        self._at(self.now_s + _SAMPLE_S, self._sample)

    # -- requests

    def _arrive(self, request: Request) -> None:
        if request.adapter not in self._adapters:
            self._serve_adapter(request.adapter)
        headers = {names.SESSION_ID: request.session} if request.session else {}
        head = RequestHead("POST", "/v1/completions", headers, None, self.now_s)
        if self._hears_first_tokens:
            self._hear_first_tokens()
        self._read.asked = request
        self._go_on(self._offer(head), request)

    def _go_on(self, offered: _Offered, request: Request) -> None:
        """Take a request on its way through the picker, as far as it goes now."""
        try:
            hold = offered.send(None)
        except StopIteration as done:
            self._decided(request, done.value)
        else:
            hold.released = lambda: self._at(self.now_s, lambda: self._go_on(offered, request))

    def _decided(self, request: Request, offered: tuple[Decision, Choice] | None) -> None:
        if offered is None:
            self._refused(request)
            return
        decision, choice = offered
        replica = self._replica_of[decision.addresses[0]]
        blocks = tuple(request.block_ids(self._setting.limits.block_size_tokens))
        best_tokens = self._best_cached_tokens(request, blocks)
        repeated_tokens = self._repeated_tokens(request, blocks)
        under_way = _UnderWay(
            request, decision, choice, replica, blocks, best_tokens, repeated_tokens
        )
        seeing = self._setting.seeing
        self._at(self.now_s + seeing.decision_s + seeing.network_s, lambda: self._reach(under_way))

    def hold(self) -> _Hold:
        """See `Holding`."""
        return _Hold()

    def call_at(self, at_s: float, act: Callable[[], None]) -> None:
        """See `Holding`."""
        self._at(max(at_s, self.now_s), act)

    async def _offer(self, head: RequestHead) -> tuple[Decision, Choice] | None:
        begun = await self._picker.begin(head)
        if isinstance(begun, Answer):
            return None
        decision = await self._picker.offer(begun, b"")
        return None if isinstance(decision, Answer) else (decision, begun.choices[-1])

    def _best_cached_tokens(self, request: Request, blocks: tuple[int, ...]) -> int:
        """The most tokens of the prompt that a replica has in its cache now."""
        size = self._setting.limits.block_size_tokens
        usable = blocks[: (request.prompt_tokens - 1) // size]
        pools = (engine.scheduler.pool for engine in self._engines)
        return size * max(len(pool.match(usable)) for pool in pools)

    def _repeated_tokens(self, request: Request, blocks: tuple[int, ...]) -> int:
        size = self._setting.limits.block_size_tokens
        usable = (request.prompt_tokens - 1) // size
        known = next(
            (index for index, block in enumerate(blocks) if block not in self._asked), len(blocks)
        )
        self._asked.update(blocks[known:])
        return size * min(known, usable)

    def _reach(self, under_way: _UnderWay) -> None:
        """The request arrives at its replica."""
        request = under_way.request
        engine = self._engines[under_way.replica]
        self._look(under_way.replica)
        asked = EngineRequest(
            request.id,
            request.prompt_tokens,
            request.output_tokens,
            under_way.blocks,
            request.adapter or None,
            request.arrival_s,
        )
        try:
            sequence = engine.add(asked, self.now_s)
        except ValueError:  # longer than the engine's context
            self._ended(under_way, None, failed=True)
            return
        under_way.sequence = sequence
        self._by_sequence[sequence] = under_way
        self._expect(under_way.replica)
        timeout_s = self._setting.client_timeout_s
        if timeout_s is not None:
            self._at(request.arrival_s + timeout_s, lambda: self._give_up(under_way))

    def _look(self, index: int) -> None:
        """Let an engine's time pass until now, and handle its events."""
        engine = self._engines[index]
        if not engine.idle:
            self._hear(engine.advance(self.now_s))

    def _expect(self, index: int) -> None:
        """Plan to look at an engine when something happens in it next."""
        at_s = self._engines[index].next_event_s()
        if at_s < self._due_s[index]:
            self._due_s[index] = at_s
            self._at(at_s, lambda: self._wake(index, at_s))

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
                under_way = self._by_sequence.pop(event.sequence, None)
                if under_way is not None:
                    self._ended(under_way, event.sequence, failed=False)

    def _give_up(self, under_way: _UnderWay) -> None:
        sequence = under_way.sequence
        assert sequence is not None
        if self._by_sequence.pop(sequence, None) is None:
            return
        self._hear(self._engines[under_way.replica].abort(sequence, self.now_s))
        self._expect(under_way.replica)
        self._ended(under_way, sequence, failed=True)

    def _ended(self, under_way: _UnderWay, sequence: Sequence | None, *, failed: bool) -> None:
        request, seeing = under_way.request, self._setting.seeing
        finished_s = None if sequence is None else sequence.finished_s
        done_s = (self.now_s if finished_s is None else finished_s) + seeing.network_s
        first_s = None if sequence is None else sequence.first_token_s
        cached_tokens = 0 if sequence is None else sequence.cached_tokens or 0
        served = Served(
            id=request.id,
            session=request.session,
            tenant=request.tenant,
            replica=under_way.replica,
            arrival_s=request.arrival_s,
            first_token_s=None if first_s is None else first_s + seeing.network_s,
            finished_s=done_s,
            input_tokens=request.prompt_tokens,
            cached_tokens=cached_tokens,
            expected_cached_tokens=under_way.decision.picks[0].matched_tokens,
            output_tokens=0 if sequence is None else sequence.generated_tokens,
            failed=failed,
            best_cached_tokens=max(cached_tokens, under_way.best_cached_tokens),
            repeated_tokens=under_way.repeated_tokens,
            predicted_ttft_s=under_way.choice.predicted_ttft_s,
            predicted_tpot_s=under_way.choice.predicted_tpot_s,
        )
        self._at(done_s, lambda: self._answered(served, request))
        self._at(done_s + seeing.report_delay_s, lambda: self._report(served, under_way))

    def _answered(self, served: Served, request: Request) -> None:
        self._outcome.served.append(served)
        self._arrival_known = False
        if served.failed:
            self._traffic.failed(request, self.now_s)
        else:
            self._traffic.answered(request, self.now_s)

    def _report(self, served: Served, under_way: _UnderWay) -> None:
        """Report the end as Envoy does. Usage comes at the end of an answer, so there is none when
        the client left before; and no status when it left before the first token."""
        status, reason = 200, Ending.OK
        if under_way.sequence is None:
            status, reason = 400, Ending.HTTP_ERROR
        elif served.failed:
            status, reason = 0 if served.ttft_s is None else 200, Ending.CLIENT_ABORTED
        whole = reason is Ending.OK
        self._picker.complete(
            Report(
                id=under_way.decision.id,
                owner=self._picker.id,
                address=self._addresses[served.replica],
                status=status,
                reason=reason,
                input_tokens=served.input_tokens if whole else None,
                output_tokens=served.output_tokens if whole else None,
                cached_tokens=served.cached_tokens if whole else None,
                streamed_events=served.output_tokens,
                ttft_s=served.ttft_s,
                duration_s=served.latency_s,
            )
        )

    def _refused(self, request: Request) -> None:
        served = Served(
            id=request.id,
            session=request.session,
            tenant=request.tenant,
            replica=REFUSED,
            arrival_s=request.arrival_s,
            first_token_s=None,
            finished_s=self.now_s,
            input_tokens=request.prompt_tokens,
            cached_tokens=0,
            expected_cached_tokens=0.0,
            output_tokens=0,
            failed=True,
        )
        self._answered(served, request)


def _adapters(sequences: Iterable[Sequence]) -> frozenset[str]:
    return frozenset(sequence.adapter for sequence in sequences if sequence.adapter)


def _address(index: int) -> str:
    return f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}:8000"
