"""Tokens as engines count them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from picker.signals import tokenize
from picker.signals.fetch import Upstream
from picker.signals.tokenize import EngineTokenizer, read_count
from picker.signals.tokenize_path import TokenizePath


@dataclass
class Replica:
    """Answers /tokenize with ``count`` for each, or with a status."""

    port: int = 0
    count: int = 7
    status: int = 200
    seen: list[object] = field(default_factory=list)
    hangs: bool = False
    at_once: int = 0
    most_at_once: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(orjson.loads(await request.read()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(3_600 if self.hangs else 0.001)
        finally:
            self.at_once -= 1
        body = {"count": self.count, "tokens": [0] * self.count}
        return web.json_response(body, status=self.status)


@pytest_asyncio.fixture
async def replica() -> AsyncIterator[Replica]:
    made = Replica()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/tokenize", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[tuple[EngineTokenizer, Clock]]:
    clock = Clock()
    path = TokenizePath()
    made = EngineTokenizer(path, now_s=clock)
    path.open()
    made.use({"p": Upstream()})
    yield made, clock
    await path.close()


async def test_all_texts_are_counted(
    replica: Replica, engine: tuple[EngineTokenizer, Clock]
) -> None:
    counts, _ = engine
    assert await counts.tokens("p", replica.address, "m", [b"one", "zw\xf6lf".encode()]) == 14
    assert replica.seen == [{"model": "m", "prompt": "one"}, {"model": "m", "prompt": "zw\xf6lf"}]
    assert await counts.tokens("other", replica.address, "m", [b"one"]) is None
    assert await counts.tokens("p", replica.address, "m", [b"x" * (5 << 20)]) is None
    assert len(replica.seen) == 2


@pytest.mark.parametrize(("status", "again_s"), [(404, 600.0), (405, 600.0), (500, 10.0)])
async def test_who_cannot_is_not_asked_again_soon(
    replica: Replica, engine: tuple[EngineTokenizer, Clock], status: int, again_s: float
) -> None:
    counts, clock = engine
    replica.status = status
    assert await counts.tokens("p", replica.address, "m", [b"one"]) is None
    assert not counts.can_count("p")
    clock.now_s = again_s + 0.1
    assert counts.can_count("p")


@pytest.mark.parametrize("status", [400, 413, 422, 429])
async def test_a_text_that_is_refused_takes_the_count_from_no_other(
    replica: Replica, engine: tuple[EngineTokenizer, Clock], status: int
) -> None:
    counts, _ = engine
    replica.status = status
    assert await counts.tokens("p", replica.address, "m", [b"odd"]) is None
    replica.status = 200
    assert await counts.tokens("p", replica.address, "m", [b"one"]) == 7


async def test_long_texts_that_take_too_long_take_the_count_from_no_other(
    replica: Replica, engine: tuple[EngineTokenizer, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "TIMEOUT_S", 0.3)
    counts, _ = engine
    replica.hangs = True
    long = [counts.tokens("p", replica.address, "m", [b"x" * 300_000]) for _ in range(4)]
    behind = counts.tokens("p", replica.address, "m", [b"one"])
    assert await asyncio.gather(*long, behind) == [None] * 5
    assert counts.can_count("p")
    assert await counts.tokens("p", replica.address, "m", [b"one"]) is None
    assert not counts.can_count("p")


async def test_nobody_listens(engine: tuple[EngineTokenizer, Clock]) -> None:
    counts, _ = engine
    assert await counts.tokens("p", "127.0.0.1:1", "m", [b"one"]) is None
    assert not counts.can_count("p")


async def test_a_few_at_once_and_not_too_many(
    replica: Replica, engine: tuple[EngineTokenizer, Clock]
) -> None:
    counts, _ = engine
    asked = (counts.tokens("p", replica.address, "m", [b"one"]) for _ in range(80))
    known = await asyncio.gather(*asked)
    assert known.count(7) == 64
    assert known.count(None) == 16
    assert replica.most_at_once == 4
    assert counts.can_count("p")


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (b'{"count": 3, "tokens": [1, 2, 3]}', 3),
        (b'{"count": [3], "tokens": [[1, 2, 3]]}', 3),
        (b'{"tokens": [1, 2]}', 2),
        (b'{"ok": true}', None),
        (b'{"count": [3, 4]}', None),
        (b'{"count": -1}', None),
        (b'{"count": 250000, "tokens": [' + b"1, " * 249_999 + b"1]}", 250_000),
        (b'{"tokens": [' + b"1, " * 249_999 + b"1]}", None),
        (b'{"count": true}', None),
        (b"[]", None),
        (b"no", None),
    ],
)
def test_answers(answer: bytes, count: int | None) -> None:
    assert read_count(answer) == count
