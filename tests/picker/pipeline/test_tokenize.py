"""The step that learns a prompt's tokens: who is asked, and how long a request waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from picker.pipeline.hash import Hash
from picker.pipeline.tokenize import Tokenize
from picker.prompt.forms import Form
from picker.prompt.token_blocks import token_bytes
from picker.request.claim import Claim
from picker.request.context import RequestContext
from picker.seams.own_tokens import Asked
from picker.state.cache.events import BlockStored
from picker.state.cache.feed import FeedState
from tests.picker.fleet import IDLE, MODEL, POOL, fleet
from tests.picker.pipeline.steps import parsed, take

SIZE = 16


class Engine:
    """Answers with a token for each character, as late as it is told to."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.wait: Callable[[], Awaitable[object]] | None = None
        self.able = True

    def can_tokenize(self, pool: str) -> bool:
        return self.able

    async def ids(self, pool: str, address: str, body: bytes) -> bytes | None:
        asked = orjson.loads(body)
        self.asked.append(asked)
        if self.wait is not None:
            await self.wait()
        text = asked.get("prompt") or "".join(str(one["content"]) for one in asked["messages"])
        return token_bytes([ord(sign) for sign in text])


class Own:
    """Makes a token for each character, in time or not, or knows nothing."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.making: asyncio.Future[bytes | None] | None = None
        self.knows = False
        self.doubt = False

    def ids(self, asked: Asked) -> bytes | asyncio.Future[bytes | None] | None:
        self.asked.append(asked)
        if not self.knows:
            return None
        return (
            token_bytes([ord(sign) for sign in asked.text or ""])
            if self.making is None
            else (self.making)
        )

    def heard(self, claim: Claim, address: str, prompt_tokens: int) -> None:
        """Nothing is compared."""

    def doubted(self, pool: str) -> bool:
        return self.doubt


class Place:
    """The step over a pool of which one replica publishes events."""

    def __init__(self, *, events: bool = True) -> None:
        self.fleet = fleet([IDLE, IDLE])
        self.engine = Engine()
        self.own = Own()
        self.step = Tokenize(self.fleet.picker.pools, self.own, self.engine, self.fleet.clock)
        if events:
            feed = self.fleet.picker.pools[POOL].cache.join(0)
            feed.forget(FeedState.WHOLE)
            feed.apply([BlockStored([1], None, list(range(SIZE)), SIZE)], 1.0)

    async def tokens(
        self, body: dict[str, object], path: str = "/v1/completions"
    ) -> RequestContext:
        context = await parsed({"model": MODEL, **body}, path)
        context.pool, context.served_model = POOL, MODEL
        await take(Hash(), context)
        await take(self.step, context)
        return context


async def test_text_and_conversations_are_asked_once_with_what_their_tokens_depend_on() -> None:
    place = Place()
    for _ in range(2):
        context = await place.tokens({"prompt": "some text", "max_tokens": 5, "cache_salt": "s"})
        assert context.tokens is not None
        assert context.tokens.ids == token_bytes([ord(sign) for sign in "some text"])
        assert (context.tokens.cache_salt, context.prompt_tokens) == ("s", 9.0)
    talk: dict[str, object] = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"a": 1}]}
    for flag in (True, False):
        one = await place.tokens({**talk, "add_generation_prompt": flag}, "/v1/chat/completions")
        assert one.tokens is not None
    assert place.engine.asked == [
        {"model": MODEL, "prompt": "some text"},
        {"model": MODEL, **talk, "add_generation_prompt": True},
        {"model": MODEL, **talk, "add_generation_prompt": False},
    ]


async def test_prompts_that_only_read_alike_are_asked_each() -> None:
    place, texts = Place(), ({"type": "text", "text": "a"}, {"type": "text", "text": "b"})
    for content in ("ab", list(texts)):
        talk: dict[str, object] = {"messages": [{"role": "user", "content": content}]}
        assert (await place.tokens(talk, "/v1/chat/completions")).tokens is not None
    assert len(place.engine.asked) == 2


async def test_token_ids_need_nobody() -> None:
    place = Place()
    context = await place.tokens({"prompt": [5, 6, 7]})
    assert context.tokens is not None
    assert context.tokens.ids == token_bytes([5, 6, 7])
    assert not place.engine.asked


async def test_nobody_is_asked_without_need_or_use() -> None:
    without = Place(events=False)
    assert (await without.tokens({"prompt": "text"})).tokens is None
    place = Place()
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    talk: dict[str, object] = {"messages": [{"role": "user", "content": [image]}]}
    assert (await place.tokens(talk, "/v1/chat/completions")).tokens is None
    assert (await place.tokens({"prompt": ["one", "two"]})).tokens is None
    assert (await place.tokens({"input": "text"}, "/v1/embeddings")).tokens is None
    place.engine.able = False
    assert (await place.tokens({"prompt": "text"})).tokens is None
    assert not without.engine.asked
    assert not place.engine.asked


async def test_what_comes_too_late_is_for_the_next_turn() -> None:
    place, late = Place(), asyncio.Event()
    first, second = "first turn " * 100, "second turn " * 100
    place.engine.wait = late.wait
    assert (await place.tokens({"prompt": first})).tokens is None
    late.set()
    await asyncio.gather(*place.step._asked.values())
    place.engine.able = False
    known = (await place.tokens({"prompt": first})).tokens
    assert known is not None
    assert known.ends
    part = (await place.tokens({"prompt": first + second})).tokens
    assert part is not None
    assert (len(part), part.ends) == (len(first), False)
    assert part.reusable(SIZE) == len(first) // SIZE * SIZE


async def test_who_is_always_late_is_not_waited_for() -> None:
    place = Place()

    async def slow() -> None:
        place.fleet.clock.now_s += 1.0

    place.engine.wait = slow
    assert (await place.tokens({"prompt": "one"})).tokens is not None  # it came all the same
    assert (await place.tokens({"prompt": "two"})).tokens is None
    await asyncio.gather(*place.step._asked.values())
    assert (await place.tokens({"prompt": "two"})).tokens is not None


async def test_who_can_make_tokens_here_asks_nobody() -> None:
    place = Place()
    place.own.knows = True
    context = await place.tokens({"prompt": "some text"})
    assert context.tokens is not None
    assert context.tokens.ids == token_bytes([ord(sign) for sign in "some text"])
    assert context.claim == Claim(POOL, MODEL, Form.COMPLETIONS, 9)
    assert not place.engine.asked
    await place.tokens({"prompt": "some text"})
    await place.tokens({"prompt": "some text", "truncate_prompt_tokens": 3})
    assert len(place.own.asked) == 1
    assert place.step.counts == {"own": 2}
    place.own.doubt, place.own.knows = True, False
    again = await place.tokens({"prompt": "some text"})
    assert again.tokens is not None
    assert place.engine.asked == [{"model": MODEL, "prompt": "some text"}]
    assert again.claim is None


async def test_our_tokens_that_are_late_are_for_the_next_turn() -> None:
    place, first = Place(), "first turn " * 100
    place.own.knows = True
    making = place.own.making = asyncio.get_running_loop().create_future()
    assert (await place.tokens({"prompt": first})).tokens is None
    assert not place.engine.asked
    making.set_result(token_bytes(list(range(1_100))))
    await asyncio.sleep(0)
    place.own.making = asyncio.get_running_loop().create_future()
    part = (await place.tokens({"prompt": first + "second"})).tokens
    assert part is not None
    assert (len(part), part.ends) == (1_100, False)
    assert place.step.counts == {"none": 1, "before": 1}


async def test_a_tokenizer_that_fails_leaves_it_to_the_engine() -> None:
    place = Place()
    place.own.knows = True
    for outcome in (RuntimeError("broken"), None):
        making = place.own.making = asyncio.get_running_loop().create_future()
        if outcome is None:
            making.set_result(None)
        else:
            making.set_exception(outcome)
        context = await place.tokens({"prompt": f"text {outcome}"})
        assert context.tokens is not None
    assert place.step.counts == {"engine": 2}
