"""The simulated replica answers calls that change its state as real vLLM does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import aiohttp
import pytest
import pytest_asyncio

from loadtests.sim.model.profile import built_in
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.replica import ReplicaSettings, SimulatedReplica
from loadtests.sim.serving.server import ReplicaServer
from tests.real.vllm import install
from tests.real.vllm.model import TinyModel, make
from tests.real.vllm.needed import need_vllm
from tests.real.vllm.server import Replica, ReplicaOptions

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 3000,
    "ignore_eos": True,
}
PATH = "/v1/chat/completions"

Call = tuple[str, str, object]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    need_vllm()
    return make(tmp_path_factory.mktemp("vllm"), install.interpreter())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(tiny: TinyModel) -> AsyncIterator[tuple[str, str]]:
    """Of real vLLM and of a simulated replica that serves the same."""
    slow = replace(built_in("constant-step"), overhead_s=0.002)
    limits = EngineLimits(num_blocks=4096, max_model_len=4096, max_loras=1)
    settings = ReplicaSettings(
        models=("tiny",), engine=EngineSettings(slow, limits), adapters=("first",)
    )
    server = ReplicaServer(SimulatedReplica(settings))
    options = ReplicaOptions(
        model=tiny.base, adapters={"first": tiny.adapter}, max_loras=1, runtime_lora_updates=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        async with Replica(options, log_folder=tiny.base.parent) as real:
            await server.start()
            yield real.url, f"http://{server.address}"
            await server.stop()


async def answers(url: str, calls: Sequence[Call]) -> list[tuple[str, int, str, object]]:
    """Of a server: status, Allow and body of each call."""
    told: list[tuple[str, int, str, object]] = []
    async with aiohttp.ClientSession(url) as http:
        for method, path, body in calls:
            async with http.request(method, path, json=body) as response:
                text = await response.text()
                told.append(
                    (
                        f"{method} {path}",
                        response.status,
                        response.headers.get("Allow", ""),
                        json.loads(text) if text.startswith("{") else text,
                    )
                )
    return told


async def sleep_state(url: str) -> set[str]:
    async with aiohttp.ClientSession(url) as http, http.get("/metrics") as response:
        page = await response.text()
    lines = [line for line in page.splitlines() if line.startswith("vllm:engine_sleep_state{")]
    assert len(lines) == 3
    return {line for line in lines if line.endswith("1.0")}


async def test_adapters_and_wrong_calls_get_equal_answers(
    urls: tuple[str, str], tiny: TinyModel
) -> None:
    path = str(tiny.adapter)
    new = {"lora_name": "new", "lora_path": path}
    shapeless: tuple[object, ...] = ({}, [], {"lora_name": 7, "lora_path": "x"})
    nameless: tuple[object, ...] = ({}, {"lora_name": None})
    calls: list[Call] = [
        *[("POST", LOAD, body) for body in shapeless],
        ("POST", LOAD, {"lora_name": "", "lora_path": ""}),
        ("POST", LOAD, {"lora_name": "tiny", "lora_path": path}),
        ("POST", LOAD, {"lora_name": "first", "lora_path": path}),
        ("POST", LOAD, {"lora_name": "first", "lora_path": path, "load_inplace": "x"}),
        ("POST", LOAD, {"lora_name": "first", "lora_path": path, "load_inplace": True}),
        *[("POST", LOAD, new), ("POST", LOAD, new)],
        ("POST", LOAD, {"lora_name": "third", "lora_path": path}),
        *[("POST", UNLOAD, {"lora_name": name}) for name in ("", "tiny", "new", "new")],
        *[("POST", UNLOAD, body) for body in nameless],
        *[("GET", "/nowhere", None), ("GET", LOAD, None), ("PUT", "/v1/models", None)],
        *[("POST", f"/sleep?{query}", None) for query in ("level=3", "level=x", "mode=foo")],
        *[("POST", f"/pause?{query}", None) for query in ("clear_cache=maybe", "mode=")],
    ]
    real, simulated = [await answers(url, calls) for url in urls]
    assert simulated == real


async def test_sleep_and_pause_change_the_same_states(urls: tuple[str, str]) -> None:
    asked: tuple[Call, ...] = (("GET", "/is_sleeping", None), ("GET", "/is_paused", None))
    changes = [
        *("/wake_up", "/resume", "/pause", "/resume", "/sleep", "/wake_up?tags=nothing"),
        *("/wake_up?tags=weights", "/wake_up?tags=weights", "/wake_up?tags=kv_cache"),
        *("/sleep?level=0&mode=keep", "/wake_up?tags=scheduling", "/sleep?level=2", "/sleep"),
        *("/sleep?level=0", "/wake_up", "/pause?mode=wait", "/sleep?mode=wait", "/resume"),
        *("/wake_up?tags=weights&tags=kv_cache", "/reset_prefix_cache"),
    ]
    for change in changes:
        calls: list[Call] = [("POST", change, None), *asked]
        real, simulated = [await answers(url, calls) for url in urls]
        assert simulated == real
        states = [await sleep_state(url) for url in urls]
        assert states[1] == states[0], change


@pytest.mark.parametrize("stream", [False, True])
async def test_what_runs_when_it_falls_asleep_ends_alike(
    urls: tuple[str, str], stream: bool
) -> None:
    ends = []
    for url in urls:
        async with aiohttp.ClientSession(url) as http:
            usage = {"stream_options": {"include_usage": True}} if stream else {}
            before = await generated_tokens(http)
            asked = asyncio.create_task(http.post(PATH, json=CHAT | {"stream": stream} | usage))
            while await generated_tokens(http) < before + 5:
                pass
            await http.post("/sleep")
            text = await (await asked).text()
            await http.post("/wake_up")
        if stream:
            events = [event.removeprefix("data: ") for event in text.strip().split("\n\n")]
            last, counts = map(json.loads, events[-3:-1])
            ends.append((last["choices"][0]["finish_reason"], counts["choices"], events[-1]))
            assert 0 < counts["usage"]["completion_tokens"] < 3000
        else:
            ends.append(json.loads(text)["choices"][0]["finish_reason"])
    assert ends[1] == ends[0]


async def generated_tokens(http: aiohttp.ClientSession) -> float:
    async with http.get("/metrics") as response:
        page = await response.text()
    return sum(
        float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith("vllm:generation_tokens_total{")
    )
