"""Tokens by a replica's /tokenize: what an answer says of the pool, and what of one prompt only."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from picker.prompt.token_blocks import token_bytes
from picker.signals.fetch import Upstream
from picker.signals.token_ids import EngineTokenIds
from picker.signals.tokenize_path import TokenizePath

POOL = "main"


async def asked(answer: web.StreamResponse | None) -> tuple[bytes | None, bool]:
    """The ids, and whether the pool is asked again. ``answer`` None: a list without end."""

    async def tokenize(request: web.Request) -> web.StreamResponse:
        if answer is not None:
            return answer
        endless = web.StreamResponse()
        await endless.prepare(request)
        try:
            await endless.write(b'{"tokens":[')
            for _ in range(64):
                await endless.write(b"1," * (1 << 19))
        except ConnectionError:
            pass
        return endless

    app = web.Application()
    app.router.add_post("/tokenize", tokenize)
    path = TokenizePath()
    engine = EngineTokenIds(path)
    async with TestServer(app) as server:
        path.open()
        engine.use({POOL: Upstream()})
        try:
            ids = await engine.ids(POOL, f"{server.host}:{server.port}", b"{}")
            return ids, engine.can_tokenize(POOL)
        finally:
            await path.close()


async def test_an_answer_has_the_ids() -> None:
    assert await asked(web.json_response({"count": 2, "tokens": [7, 8]})) == (
        token_bytes([7, 8]),
        True,
    )


@pytest.mark.parametrize("status", [400, 408, 413, 422, 429, 500, 502, 503])
async def test_one_refused_prompt_does_not_end_the_knowledge_of_all(status: int) -> None:
    assert await asked(web.Response(status=status)) == (None, True)


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 501])
async def test_a_path_that_is_not_there_is_not_asked_again(status: int) -> None:
    assert await asked(web.Response(status=status)) == (None, False)


async def test_no_more_than_a_bounded_answer_is_read() -> None:
    assert await asked(None) == (None, True)


async def test_a_replica_that_does_not_answer_is_left_alone_for_a_while() -> None:
    requests, now_s = list[str](), 100.0

    async def tokenize(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(text="no JSON")

    app = web.Application()
    app.router.add_post("/tokenize", tokenize)
    path = TokenizePath()
    engine = EngineTokenIds(path, now_s=lambda: now_s)
    async with TestServer(app) as server:
        path.open()
        engine.use({POOL: Upstream()})
        try:
            for asked_s, count in ((100.0, 1), (104.0, 1), (106.0, 2)):
                now_s = asked_s
                assert await engine.ids(POOL, f"{server.host}:{server.port}", b"{}") is None
                assert len(requests) == count
                assert engine.can_tokenize(POOL)  # others may well answer
        finally:
            await path.close()
