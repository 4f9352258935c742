"""Replicas as people have them: behind a key and a name, without metrics, without a model list, too
slow to be read, or not there at all. One gateway in front of all of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.real.gateway import Gateway, Json, eventually
from tests.real.ports import free_port
from tests.real.replicas import Recorder, Seen

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

KEY = "sk-of-the-replicas-8842"
DELAY_S = 2.0
CHAT: Json = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass(slots=True)
class Keyed(Recorder):
    """Asks for a key and a host on every path, as a proxy that goes by names does."""

    model: str = "keyed"

    def _denied(self, request: web.Request) -> web.Response | None:
        key, host = request.headers.get("authorization"), request.host
        if (key, host) == (f"Bearer {KEY}", "models.internal"):
            return None
        return web.json_response({"error": "Unauthorized"}, status=401)

    async def _metrics(self, request: web.Request) -> web.Response:
        return self._denied(request) or await Recorder._metrics(self, request)

    async def _models(self, request: web.Request) -> web.Response:
        return self._denied(request) or await Recorder._models(self, request)

    async def _record(self, request: web.Request) -> web.StreamResponse:
        answer = await Recorder._record(self, request)
        return self._denied(request) or answer


@dataclass(slots=True)
class Plain(Recorder):
    """A server with OpenAI's API and nothing else: no metrics, no model list, no health page."""

    model: str = "plain"

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(status=404)

    async def _models(self, _: web.Request) -> web.Response:
        return web.Response(status=404)


@dataclass(slots=True)
class Slow(Recorder):
    """Its metrics take longer than anybody waits."""

    model: str = "slow"
    ends: asyncio.Event = field(default_factory=asyncio.Event)

    async def _metrics(self, request: web.Request) -> web.Response:
        await self.ends.wait()
        return await Recorder._metrics(self, request)


@dataclass(slots=True)
class Site:
    """A gateway and the replicas behind it."""

    gateway: Gateway
    http: aiohttp.ClientSession
    keyed: Keyed
    plain: Plain
    slow: Slow
    nobody: str
    """Address where nobody listens."""

    async def chat(self, model: str, **headers: str) -> aiohttp.ClientResponse:
        """A request whose client identifies itself in every way there is."""
        own = {"authorization": "Bearer sk-client", "x-api-key": "sk-client", **headers}
        return await self.http.post(
            "/v1/chat/completions", json={"model": model, **CHAT}, headers=own
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch_module.setenv("REPLICA_KEY", KEY)
    nobody = f"127.0.0.1:{free_port()}"
    async with Keyed() as keyed, Plain() as plain, Slow() as slow:
        pools: list[Json] = [
            {
                "name": "keyed",
                "endpoints": [keyed.address],
                "upstream": {
                    "api_key": {"env": "REPLICA_KEY"},
                    "host": "models.internal",
                    "headers": {"x-team": "search"},
                },
            },
            {
                "name": "plain",
                "endpoints": [plain.address],
                "engine": "openai",
                "models": ["plain"],
                "default": True,
            },
            {"name": "slow", "endpoints": [slow.address]},
            {"name": "gone", "endpoints": [nobody, "no-such-host.invalid:80"], "models": ["gone"]},
        ]
        config: Json = {
            "listen": {"shutdown_delay_s": DELAY_S},
            "pools": [{"type": "static", **pool} for pool in pools],
            "models": [{"name": "alias", "targets": [{"model": "keyed"}]}],
        }
        gateway = Gateway(tmp_path_factory.mktemp("upstream"), config)
        async with gateway, aiohttp.ClientSession(gateway.url) as http:
            await gateway.healthy(keyed.address, plain.address, slow.address)
            yield Site(gateway, http, keyed, plain, slow, nobody)
            slow.ends.set()


@pytest.fixture(scope="module")
def monkeypatch_module() -> pytest.MonkeyPatch:
    return pytest.MonkeyPatch()


def only(recorder: Recorder) -> Seen:
    """The one request that the replica got of a client."""
    (seen,) = [one for one in recorder.seen if one.method == "POST"]
    return seen


async def test_the_gateways_key_takes_the_place_of_the_clients(site: Site) -> None:
    for model in ("keyed", "alias"):
        site.keyed.seen.clear()
        answer = await site.chat(model)
        assert answer.status == 200, await answer.text()
        headers = only(site.keyed).headers
        assert (headers["authorization"], headers["host"]) == (f"Bearer {KEY}", "models.internal")
        assert headers["x-team"] == "search"
        assert "sk-client" not in str(headers)


async def test_a_pool_without_settings_gets_what_the_client_sent(site: Site) -> None:
    answer = await site.chat("plain")
    assert answer.status == 200
    headers = only(site.plain).headers
    assert headers["authorization"] == "Bearer sk-client"
    assert "x-team" not in headers


async def test_the_key_stands_nowhere(site: Site) -> None:
    gateway = site.gateway
    assert gateway.run_dir is not None
    envoy = aiohttp.UnixConnector(str(gateway.run_dir / "envoy-admin.sock"))
    async with aiohttp.ClientSession("http://envoy", connector=envoy) as admin:
        dump = await (await admin.get("/config_dump?include_eds")).text()
    async with aiohttp.ClientSession(gateway.admin) as admin:
        config = await (await admin.get("/api/config")).text()
    files = [path for path in gateway.run_dir.rglob("*") if path.is_file()]
    told = [dump, config, str(await gateway.status()), gateway.output(), str(gateway.request_log())]
    assert not [text for text in (*told, *map(str, files)) if KEY in text]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


async def test_slow_metrics_refuse_nobody(site: Site) -> None:
    answers = await asyncio.gather(*(site.chat("slow") for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    endpoint = (await site.gateway.endpoints())[site.slow.address]
    assert endpoint["healthy"]

    async def said() -> bool:
        one = (await site.gateway.endpoints())[site.slow.address]
        return one["warning"] == "GET /metrics: no answer within 1 s"

    await eventually(said, "the status says that its load is not known")


async def test_who_cannot_be_used_is_named_with_the_reason(site: Site) -> None:
    output = site.gateway.output()
    assert "Ready in" in output
    assert f"pool gone: {site.nobody}: cannot connect: Connection refused" in output
    assert "pool gone: no-such-host.invalid:80 is unresolved: no-such-host.invalid cannot" in output
    endpoint = (await site.gateway.endpoints())[site.nobody]
    assert (endpoint["healthy"], "Connection refused" in str(endpoint["reason"])) == (False, True)
    refused = await site.chat("gone")
    assert (refused.status, (await refused.json())["error"]["code"]) == (503, "no_endpoints")


async def test_the_list_of_models(site: Site) -> None:
    for _ in range(3):
        answer = await site.http.get("/v1/models", headers={"x-request-id": "listed"})
        names = [one["id"] for one in (await answer.json())["data"]]
        assert names == ["keyed", "plain", "slow", "gone", "alias"]
    answer = await site.http.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    listed = await answer.json()
    assert (listed["first_id"], listed["has_more"]) == ("keyed", False)

    async def logged() -> bool:
        lines = site.gateway.request_log()
        return any(line["request_id"] == "listed" and line["status"] == 200 for line in lines)

    await eventually(logged, "the list of models has left a line")


async def test_ids_are_in_every_answer_and_software_in_none(site: Site) -> None:
    for ask in (
        site.chat("plain", **{"x-request-id": "mine"}),
        site.chat("none", **{"x-request-id": "mine"}),
        site.http.get("/v1/models", headers={"x-request-id": "mine"}),
    ):
        answer = await ask
        assert answer.headers.getall("request-id") == ["mine"]
        assert answer.headers.getall("x-request-id") == ["mine"]
        assert "server" not in answer.headers
    answer = await site.http.get("/v1/models")
    assert answer.headers["request-id"] == answer.headers["x-request-id"] != ""


async def test_after_sigterm_new_connections_are_served_for_a_while(site: Site) -> None:
    """The last one: it ends the gateway."""
    gateway = site.gateway
    gateway.signal(signal.SIGTERM)

    async def unready() -> bool:
        async with aiohttp.ClientSession(gateway.admin) as admin:
            answer = await admin.get("/readyz")
            return answer.status == 503 and "shutting down" in await answer.text()

    await eventually(unready, "/readyz says that it is leaving", timeout_s=DELAY_S)

    async def sent_away() -> bool:
        async with aiohttp.ClientSession(gateway.url) as new:
            answer = await new.post("/v1/chat/completions", json={"model": "plain", **CHAT})
            assert answer.status == 200
            return answer.headers.get("connection") == "close"

    await eventually(sent_away, "the next request may go elsewhere", timeout_s=DELAY_S)
    assert await gateway.exited() == 0
