"""What streams are charged: to the token when they end well, what was shown when they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

from tests.real.gateway import Gateway, Json
from tests.real.limits.accounts import key_of, limit, redis_store, settled, tenant
from tests.real.limits.asking import Api, Ask, Outcome, send
from tests.real.replicas import Replica, stepping
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

STEP_MS: Final = 25
TOKENS: Final = 8
PROMPT: Final = "tell me about the sea, please"
APIS = pytest.mark.parametrize("api", Api, ids=lambda api: api.name.lower())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("streams")
    server = RedisServer(Path(tmp_path_factory.mktemp("redis")))
    server.start()
    options = (*stepping(STEP_MS), "--output-tokens-min=100000", "--num-blocks=65536")
    try:
        async with Replica(folder, *options) as replica:
            config: Json = {
                "picker": {"workers": 2},
                "limits": {"store": redis_store(server.url, timeout_ms=2_000)},
                "tenants": [tenant("acme", limit("total_tokens", 10_000_000, "minute"))],
                "pools": [{"name": "p", "type": "static", "endpoints": [replica.address]}],
                "models": [{"name": "alias", "targets": [{"model": "m"}]}],
            }
            async with Gateway(folder / "gateway", config) as running:
                yield running
    finally:
        server.kill()


async def asked(gateway: Gateway, ask: Ask) -> Outcome:
    async with aiohttp.ClientSession(gateway.url) as session:
        outcome = await send(session, ask, key_of("acme"))
    assert outcome.status == 200, outcome.error
    return outcome


@APIS
@pytest.mark.parametrize("model", ["m", "alias"])
@pytest.mark.parametrize("include_usage", [False, True], ids=["silent", "told"])
async def test_whole(gateway: Gateway, api: Api, model: str, include_usage: bool) -> None:
    """Also when the client does not ask for usage. Messages and responses always tell it."""
    user = f"{api.name}-{model}-{include_usage}"
    ask = Ask(
        api,
        PROMPT,
        model,
        TOKENS,
        include_usage=include_usage and api in (Api.CHAT, Api.COMPLETIONS),
        user=user,
    )
    outcome = await asked(gateway, ask)
    assert outcome.whole
    assert outcome.shown_tokens == TOKENS
    row = await settled(gateway, 1, user=user)
    assert (row.input_tokens, row.output_tokens) == (ask.prompt_tokens, TOKENS)


@APIS
@pytest.mark.parametrize("tokens", [1, 2, 20])
async def test_left_half_way(gateway: Gateway, api: Api, tokens: int) -> None:
    user = f"{api.name}-left-{tokens}"
    ask = Ask(api, PROMPT, max_tokens=5_000, user=user, abort_after=tokens)
    outcome = await asked(gateway, ask)
    assert outcome.left
    row = await settled(gateway, 1, user=user)
    print(f"{api.name}: left after {tokens}, charged {row.output_tokens}")
    assert abs(row.output_tokens - tokens) <= 1
    if api is Api.MESSAGES:  # told at the beginning
        assert row.input_tokens == ask.prompt_tokens
    else:
        assert abs(row.input_tokens - ask.prompt_tokens) <= 0.5 * ask.prompt_tokens


@APIS
async def test_the_users_and_the_tenants_sum(gateway: Gateway, api: Api) -> None:
    """An answer that is no stream counts as well, and nobody else's."""
    user = f"{api.name}-sum"
    for _ in range(3):
        await asked(gateway, Ask(api, PROMPT, max_tokens=TOKENS, stream=False, user=user))
    row = await settled(gateway, 3, user=user)
    assert row.output_tokens == 3 * TOKENS
