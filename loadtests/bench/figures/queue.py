"""Ten thousand requests that wait: what the queue's order takes of each, and the picker in all.

Times are CPU time of this process on one core.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Final

from loadtests.bench import processes
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.rows import Row, below
from picker.core import Parts, Picker
from picker.prompt.blocks import hash_blocks
from picker.prompt.fields import RequestFields
from picker.prompt.forms import Form, read_prompt
from picker.request.answer import Answer, Decision
from picker.request.caller import Caller
from picker.request.context import RequestContext
from picker.request.head import RequestHead
from picker.settings import PickerSettings, PoolSettings
from picker.state.endpoints import Signals
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from policies.flow.item import Item
from policies.flow.queue import FlowQueue
from policies.limits.plan import TenantPolicy
from policies.routing.spec import PolicySpec

_WAITING: Final = 10_000
_ENDPOINTS: Final = 8
_TENANTS: Final = 10
_POOL, _MODEL = "bench", "m"
_PROMPT_BYTES: Final = 4_000


def rows(effort: Effort) -> list[Row]:
    """All of them."""
    return [*_order(effort), *_picker(effort)]


def _order(effort: Effort) -> Iterator[Row]:
    """Offer, take and settle, with as many waiting all the time."""
    turns = effort.of(20_000, 2_000)
    for tenants, places in ((_TENANTS, _ENDPOINTS), (1_000, _ENDPOINTS), (1_000, 1_000)):
        effort.say(f"an order of {_WAITING:,} requests of {tenants:,} tenants")
        rng = random.Random(1)
        items = [_item(number, tenants, rng) for number in range(_WAITING + turns)]
        slots = [rng.randrange(places) for _ in items]
        queue = FlowQueue()
        for item, slot in zip(items[:_WAITING], slots, strict=False):
            queue.offer(item, (slot, ""))
        started_s = time.process_time()
        for turn, item in enumerate(items[_WAITING:]):
            queue.offer(item, (slots[_WAITING + turn], ""))
            # Where one was offered: every place has something waiting.
            taken = queue.first((slots[turn], ""))
            if taken is None:
                taken = queue.first(item.place)
            assert taken is not None
            queue.take(taken, 0.0)
            queue.settle(taken, taken.cost * (0.5 + turn % 2))
        each_us = (time.process_time() - started_s) / turns * 1e6
        name = f"order of {_WAITING:,} requests, {tenants:,} tenants, {places:,} places"
        aim, met = below(each_us, 20, "us") if tenants == _TENANTS else ("", None)
        how = "enqueue, dispatch and settle one; no I/O"
        yield Row(name, each_us, "us", how, aim=aim, met=met)


def _item(number: int, tenants: int, rng: random.Random) -> Item:
    return Item(
        id=str(number),
        flow=f"t{rng.randrange(tenants)}",
        user="",
        priority=rng.choice((0, 0, 0, 1)),
        weight=1.0,
        tokens=1000.0,
        cost=rng.uniform(10, 3000),
        arrived_s=number * 1e-3,
        expires_s=45 + number * 1e-3,
    )


def _picker(effort: Effort) -> Iterator[Row]:
    """The whole way of requests through the picker, without parsing their bodies."""
    effort.say(f"a picker in which {_WAITING:,} requests wait")
    stand = _Stand()
    plain_us = stand.offer(1_000, lambda: None)
    stand.fill()
    gc.collect()
    before = processes.memory(os.getpid()).rss_bytes
    enqueue_us = stand.offer(_WAITING, lambda: None) - plain_us
    gc.collect()
    grown = processes.memory(os.getpid()).rss_bytes - before
    waiting = stand.picker.admission.waiting
    dispatch_us = stand.dispatch() / waiting * 1e6
    how = f"{waiting:,} wait; beside the {plain_us:.0f} us of one that does not"
    yield Row("picker: enqueue", enqueue_us, "us", how)
    how = "its place chosen anew, until it is decided"
    yield Row("picker: dispatch", dispatch_us, "us", how)
    how = "resident set, prompts of 4 kB whose bodies are not kept"
    yield Row("picker: memory per queued request", grown / waiting / 1000, "kB", how)


class _Hold:
    """See `Hold`."""

    def __init__(self) -> None:
        self.released: Callable[[], None] | None = None

    def release(self) -> None:
        if self.released is not None:
            self.released()

    def __await__(self) -> Generator[_Hold, None, None]:
        yield self


class _Holding:
    """See `Holding`. No time passes."""

    def hold(self) -> _Hold:
        return _Hold()

    def call_at(self, at_s: float, act: Callable[[], None]) -> None:
        pass


class _Stand:
    """A picker in front of endpoints that exist only as signals."""

    def __init__(self) -> None:
        self._rng = random.Random(1)
        self._ready: list[Coroutine[_Hold, None, None]] = []
        self._count = 0
        self.picker = Picker(
            "bench",
            Parts(read=self._read, holding=_Holding()),
            now=lambda: 0.0,
            rng=random.Random(2),
        )
        pool = PoolSettings(_POOL, PolicySpec("auto"), (_MODEL,), default=True, queue=True)
        self.picker.configure(PickerSettings((pool,)))
        self._addresses = [f"10.0.0.{number}:8000" for number in range(_ENDPOINTS)]
        self.picker.pools.sync_endpoints(_POOL, [EndpointSpec(each) for each in self._addresses])
        for address in self._addresses:
            self.picker.apply_models(_POOL, address, [ServedModel(_MODEL, None, 100_000)], 0.0)
        self._report(waiting=0)
        self._prompts = [self._prompt() for _ in range(64)]

    def fill(self) -> None:
        """From now on nothing begins."""
        self._report(waiting=50)

    def offer(self, requests: int, then: Callable[[], None]) -> float:
        """Requests come; CPU time of one, us."""
        started_s = time.process_time()
        for _ in range(requests):
            self._go_on(self._offered())
            then()
        return (time.process_time() - started_s) / requests * 1e6

    def dispatch(self) -> float:
        """Let everything begin; CPU time of it, s."""
        started_s = time.process_time()
        while self.picker.admission.waiting:
            self._report(waiting=0)
            ready, self._ready = self._ready, []
            for one in ready:
                self._go_on(one)
        return time.process_time() - started_s

    def _report(self, *, waiting: int) -> None:
        for address in self._addresses:
            seen = Signals(
                waiting_requests=waiting,
                running_requests=_WAITING,
                kv_usage=0.5,
                kv_capacity_tokens=1_000_000,
                kv_block_tokens=16,
                max_loras=0,
                running_adapters=frozenset(),
                waiting_adapters=frozenset(),
            )
            self.picker.apply_signals(_POOL, address, seen, 0.0)

    async def _offered(self) -> None:
        begun = await self.picker.begin(RequestHead("POST", "/v1/completions", {}, None, 0.0))
        assert not isinstance(begun, Answer)
        decided = await self.picker.offer(begun, b"")
        assert isinstance(decided, Decision)

    def _go_on(self, offered: Coroutine[_Hold, None, None]) -> None:
        try:
            hold = offered.send(None)
        except StopIteration:
            return
        hold.released = lambda: self._ready.append(offered)

    def _prompt(self) -> str:
        words = (self._rng.choice(("token", "replica", "queue")) for _ in range(_PROMPT_BYTES))
        return " ".join(words)[:_PROMPT_BYTES]

    def _read(self, context: RequestContext) -> None:
        self._count += 1
        text = f"{self._count} {self._prompts[self._count % len(self._prompts)]}"
        context.asked_model = _MODEL
        context.fields = RequestFields(
            model=_MODEL,
            stream=True,
            include_usage=True,
            max_output_tokens=500,
            choices=1,
            cache_salt=None,
            user=None,
            session_id=None,
        )
        context.caller = Caller(TenantPolicy(f"t{self._count % _TENANTS}"))
        context.prompt = read_prompt(Form.COMPLETIONS, {"prompt": text})
        context.blocks = hash_blocks(context.prompt, model=_MODEL)
