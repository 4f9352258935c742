"""Exact knowledge of caches over two real vLLM replicas with few blocks."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.tokenizers.model_folder import EngineOptions, read_model
from gateway.tokenizers.own import ids_of
from picker.prompt.forms import Form
from picker.prompt.token_blocks import token_bytes
from picker.seams.own_tokens import Asked
from picker.state.spec import EndpointSpec, KvPorts
from tests.gateway.tokenizers.cases import REQUESTS, TEMPLATES
from tests.picker.signals.exact_fleet import Fleet, fleet, right_predictions, text
from tests.real.ports import free_port
from tests.real.vllm.install import interpreter
from tests.real.vllm.model import make
from tests.real.vllm.needed import need_vllm
from tests.real.vllm.server import Replica, ReplicaOptions

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

BLOCK, BLOCKS = 32, 96


class Real:
    """Replicas, and where each publishes."""

    def __init__(self, made: Fleet, folder: Path, model: Path) -> None:
        self.fleet = made
        self.ports = [KvPorts(free_port(), free_port()) for _ in range(2)]
        self.replicas = [
            Replica(self._options(model, ports), log_folder=folder) for ports in self.ports
        ]

    def _options(self, model: Path, ports: KvPorts) -> ReplicaOptions:
        config = {
            "enable_kv_cache_events": True,
            "endpoint": f"tcp://*:{ports.port}",
            "replay_endpoint": f"tcp://*:{ports.replay_port}",
        }
        return ReplicaOptions(
            model=model,
            block_tokens=BLOCK,
            kv_blocks=BLOCKS,
            max_model_tokens=2048,
            max_running=8,
            extra_arguments=(
                *("--kv-events-config", json.dumps(config)),
                "--trust-request-chat-template",
            ),
        )

    def sync(self) -> None:
        specs = [
            EndpointSpec(replica.address, kv_events=ports)
            for replica, ports in zip(self.replicas, self.ports, strict=True)
        ]
        self.fleet.sync(specs, BLOCK * BLOCKS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_vllm()
    return make(tmp_path_factory.mktemp("exact"), interpreter()).base


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(model: Path) -> AsyncIterator[Real]:
    async with fleet("tiny", str(model)) as made:
        running = Real(made, model.parent, model)
        try:
            await asyncio.gather(*(replica.start() for replica in running.replicas))
            running.sync()
            yield running
        finally:
            for replica in running.replicas:
                await replica.stop()


async def test_predicted_cached_tokens_are_those_that_vllm_reports(real: Real) -> None:
    right = await right_predictions(real.fleet, 300, words=24, settled=real.fleet.quiet)
    counts = real.fleet.picker.tokenize.counts
    print(f"{right} of 300 predicted as reported; {counts}; {real.fleet.events.stats}")
    assert real.fleet.exact == 2
    feeds = [stream.feed for stream in real.fleet.events._streams.values()]
    assert sum(len(feed.holder) for feed in feeds) > BLOCKS
    assert right >= 285, right
    assert real.fleet.picker.tokenize.counts["own"] > 250


async def test_our_tokens_are_those_of_the_engine(real: Real, model: Path) -> None:
    address = real.replicas[0].address
    for template_name, template in TEMPLATES.items():
        ours = read_model(model, EngineOptions(template))
        for name, request in REQUESTS.items():
            asked = Asked("main", "tiny", None, Form.CHAT, request, None, 1)
            body = {"model": "tiny", "max_tokens": 1, "return_token_ids": True, **request}
            body |= {"chat_template": template} | (
                {"tool_choice": "none"} if "tools" in body else {}
            )
            url = f"http://{address}/v1/chat/completions"
            async with real.fleet.http.post(url, json=body) as response:
                answer = await response.json()
            made = ids_of(ours, asked)
            theirs = answer.get("prompt_token_ids")
            expected = None if theirs is None else token_bytes(theirs)
            assert made == expected, (template_name, name, answer)


async def test_a_replica_that_hangs_is_known_approximately_until_it_goes_on(real: Real) -> None:
    await real.fleet.until(lambda: real.fleet.exact == 2)
    group, stopped_s = real.replicas[1].process_group, time.monotonic()
    os.killpg(group, signal.SIGSTOP)
    try:
        await real.fleet.until(lambda: real.fleet.exact == 1)
        print(f"noticed after {time.monotonic() - stopped_s:.2f} s")
    finally:
        os.killpg(group, signal.SIGCONT)
    await real.fleet.until(lambda: real.fleet.exact == 2)


async def test_a_replica_that_is_killed_comes_back_with_an_empty_cache(real: Real) -> None:
    rng = random.Random(3)
    body: dict[str, object] = {"model": "tiny", "max_tokens": 2, "prompt": text(rng, 100)}
    await real.fleet.ask(body)
    await real.fleet.quiet()
    killed_s = time.monotonic()
    await real.replicas[0].kill()
    await real.fleet.until(lambda: real.fleet.exact == 1)
    print(f"noticed after {time.monotonic() - killed_s:.2f} s")
    await real.replicas[0].start()
    real.sync()
    for _ in range(4):
        await real.fleet.ask({**body, "prompt": text(rng, 100)})
        await real.fleet.quiet()
    async with asyncio.timeout(60):
        while real.fleet.exact < 2:
            await real.fleet.ask({**body, "prompt": text(rng, 100)})
            await real.fleet.quiet()
    predicted, reported, _ = await real.fleet.ask(body)
    await real.fleet.quiet()
    assert round(predicted) == reported
    predicted, reported, _ = await real.fleet.ask(body)
    assert round(predicted) == reported > 0
