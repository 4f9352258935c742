"""A picker in this process over replicas that publish KV events, whatever they are."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import orjson

from gateway.tokenizers.own import OwnTokenizers
from picker.bodies.apart import Here
from picker.core import Parts, Picker
from picker.request.answer import Answer, Decision
from picker.request.head import RequestHead
from picker.request.report import Ending, Report
from picker.settings import PickerSettings, PoolSettings
from picker.signals.fetch import Upstream
from picker.signals.kv_events import KvEvents, KvSettings
from picker.signals.token_ids import EngineTokenIds
from picker.signals.tokenize_path import TokenizePath
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from tests.picker.fleet import IDLE, policy

POOL = "main"
SETTINGS = KvSettings(port=1, replay_port=None)
_QUIET_S = 0.03
WORDS = ("prefill", "decode", "token", "gateway", "replica", "the", "of", "and", "a", "cache")


@dataclass
class Fleet:
    picker: Picker
    events: KvEvents
    http: aiohttp.ClientSession
    model: str
    root: str | None
    """Folder of the model; None: only its engines know it."""

    def sync(self, specs: Sequence[EndpointSpec], capacity_tokens: int) -> None:
        """The picker's endpoints are these."""
        pool = self.picker.pools[POOL]
        self.picker.pools.sync_endpoints(POOL, specs)
        for spec in specs:
            signals = replace(IDLE, kv_capacity_tokens=capacity_tokens)
            models, now_s = [ServedModel(self.model, None, 4096, self.root)], time.monotonic()
            self.picker.apply_signals(POOL, spec.address, signals, now_s)
            self.picker.apply_models(POOL, spec.address, models, now_s)
        self.events.sync(pool, SETTINGS, pool.state.specs)

    @property
    def exact(self) -> int:
        """Replicas that are known by their events."""
        return len(self.picker.pools[POOL].cache.exact_slots())

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not check():
                self.picker.pools.tick()
                await asyncio.sleep(0.01)

    async def decided(self, body: dict[str, object]) -> Decision:
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        begun = await self.picker.begin(RequestHead("POST", path, {}, None, time.monotonic()))
        assert not isinstance(begun, Answer)
        decision = await self.picker.offer(begun, orjson.dumps(body))
        assert isinstance(decision, Decision), decision
        return decision

    async def ask(self, body: dict[str, object]) -> tuple[float, int, str]:
        """Predicted and reported cached tokens, and the text of the answer."""
        decision = await self.decided(body)
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        address, started_s = decision.addresses[0], time.monotonic()
        async with self.http.post(f"http://{address}{path}", json=body) as response:
            answer = await response.json()
            assert response.status == 200, (answer, body)
        usage = answer["usage"]
        cached = (usage["prompt_tokens_details"] or {"cached_tokens": 0})["cached_tokens"]
        self.picker.complete(
            Report(
                decision.id,
                self.picker.id,
                address,
                200,
                Ending.OK,
                time.monotonic() - started_s,
                input_tokens=usage["prompt_tokens"],
                output_tokens=usage["completion_tokens"],
                cached_tokens=cached,
            )
        )
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return decision.picks[0].matched_tokens, cached, text

    async def quiet(self) -> None:
        """What the replicas have published has arrived: nothing more comes for a while."""
        before, since_s = -1, time.monotonic()
        async with asyncio.timeout(20):
            while time.monotonic() < since_s + _QUIET_S:
                if self.events.stats.batches != before:
                    before, since_s = self.events.stats.batches, time.monotonic()
                await asyncio.sleep(_QUIET_S / 4)


@asynccontextmanager
async def fleet(model: str, root: str | None = None) -> AsyncIterator[Fleet]:
    """Without replicas yet."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        path, events = TokenizePath(), KvEvents()
        tokens = EngineTokenIds(path)
        path.open()
        stack.push_async_callback(path.close)
        events.open()
        stack.callback(events.close)
        tokens.use({POOL: Upstream()})
        own = OwnTokenizers(Here(), time.monotonic)
        stack.callback(own.close)
        parts = Parts(own_tokens=own, engine_tokens=tokens)
        picker = Picker("p", parts, now=time.monotonic, rng=random.Random(1))
        pool = PoolSettings(POOL, policy(), (model,), default=True)
        picker.configure(PickerSettings((pool,)))
        yield Fleet(picker, events, http, model, root)


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


async def right_predictions(
    made: Fleet, requests: int, *, words: int, settled: Callable[[], Awaitable[None]]
) -> int:
    """Conversations and completions with common beginnings, one after the other: how often the
    replica took as many tokens from its cache as predicted."""
    rng = random.Random(7)
    systems = [text(rng, 4 * words) for _ in range(4)]
    talks: list[list[dict[str, object]]] = []
    right = 0
    for _ in range(requests):
        if not talks or rng.random() < 0.3 or len(talks[-1]) > 9:
            talks.append([{"role": "system", "content": rng.choice(systems)}])
        talk = rng.choice(talks[-8:])
        body: dict[str, object]
        if rng.random() < 0.3:
            body = {"prompt": rng.choice(systems) + text(rng, words)}
        else:
            talk.append({"role": "user", "content": text(rng, words)})
            body = {"messages": talk}
        if rng.random() < 0.1:
            body["cache_salt"] = rng.choice("ab")
        body |= {"model": made.model, "max_tokens": rng.randrange(1, 40)}
        predicted, reported, answer = await made.ask(body)
        if "messages" in body:
            talk.append({"role": "assistant", "content": answer})
        right += round(predicted) == reported
        await settled()
    return right
