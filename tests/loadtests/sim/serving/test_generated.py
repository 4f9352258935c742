"""What a replica says that it has generated."""

from __future__ import annotations

import aiohttp

from tests.loadtests.conftest import Serve, until

CHAT = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}]}


async def test_by_request_id_whether_the_client_stayed_or_not(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    server = await serve()
    chat = f"http://{server.address}/v1/chat/completions"
    generated = f"http://{server.address}/sim/generated"
    for name, more in (
        ("whole", {"max_tokens": 5, "n": 2}),
        ("stream", {"max_tokens": 7, "stream": True}),
    ):
        headers = {"x-request-id": name}
        async with http.post(chat, json={**CHAT, **more}, headers=headers) as answer:
            await answer.read()
    async with http.get(generated) as answer:
        told = (await answer.json())["requests"]
    prompt_tokens = told[0]["prompt_tokens"]
    counts = {one["request_id"]: one["generated_tokens"] for one in told}
    assert counts == {"whole": 10, "stream": 7}
    assert all(one["whole"] and one["prompt_tokens"] == prompt_tokens > 0 for one in told)
    async with http.delete(generated) as answer:
        assert (await answer.json())["requests"] == []


async def test_a_client_that_leaves(serve: Serve, http: aiohttp.ClientSession) -> None:
    server = await serve(stalled=True)
    left = {"stream": True, "max_tokens": 9}
    async with http.post(
        f"http://{server.address}/v1/chat/completions",
        json={**CHAT, **left},
        headers={"x-request-id": "left"},
    ) as answer:
        answer.close()
    await until(server.replica.generated.describe)
    (one,) = server.replica.generated.describe()
    assert (one["request_id"], one["generated_tokens"], one["whole"]) == ("left", 0, False)
