"""Real vLLM and the simulator are sent the same 300 requests, and do the same."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from rich.console import Console

from loadtests.lab.commands.parity import table_of
from loadtests.lab.parity import asks, http
from loadtests.lab.parity.asks import Burst
from loadtests.lab.parity.comparison import Parity, compare
from loadtests.lab.parity.recording import Recording
from loadtests.lab.parity.virtual import replay
from loadtests.sim.model.scheduler import EngineLimits
from tests.real import replicas
from tests.real.vllm import install
from tests.real.vllm.model import make
from tests.real.vllm.needed import need_vllm
from tests.real.vllm.server import Replica, ReplicaOptions

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

LIMITS = EngineLimits(
    num_blocks=96,
    block_size_tokens=32,
    max_num_seqs=12,
    max_num_batched_tokens=256,
    max_model_len=1024,
    async_scheduling=False,  # as on every CPU
)
STEP_S = 0.003
"""Of the simulator: longer than it takes to be held."""


@dataclass(frozen=True, slots=True)
class Run:
    """What real vLLM did."""

    server: http.ParityServer
    bursts: list[Burst]
    recording: Recording


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    """A folder with a name short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        yield Path(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory, sockets: Path) -> AsyncIterator[Run]:
    need_vllm()
    folder = tmp_path_factory.mktemp("vllm")
    events = f"ipc://{sockets / 'real'}"
    options = ReplicaOptions(
        model=make(folder, install.interpreter()).base,
        kv_blocks=LIMITS.num_blocks + 1,
        block_tokens=LIMITS.block_size_tokens,
        max_model_tokens=LIMITS.max_model_len,
        max_running=LIMITS.max_num_seqs,
        development_endpoints=True,
        extra_arguments=(
            *("--max-num-batched-tokens", str(LIMITS.max_num_batched_tokens)),
            *("--kv-events-config", json.dumps(_events_to(events))),
        ),
    )
    async with Replica(options, log_folder=folder) as replica:
        server = http.ParityServer(replica.url, events)
        facts = await http.facts_of(server)
        assert facts.num_blocks == LIMITS.num_blocks
        bursts = asks.make(300, 1, LIMITS)
        yield Run(server, bursts, await http.record(server, facts, bursts, who="real"))


def _events_to(endpoint: str) -> dict[str, object]:
    return {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint, "topic": ""}


def _assert_same(parity: Parity) -> None:
    assert parity.requests == 300
    assert not parity.unexplained
    assert parity.order_differs is None
    assert parity.ordered > 200
    assert min(parity.preemptions) > 10
    assert parity.preemptions_close
    assert min(blocks or 0 for blocks in parity.evicted_blocks) > 1000
    assert parity.holds


async def test_engine_model_does_what_real_vllm_did(real: Run) -> None:
    simulated = replay(real.bursts, LIMITS, real.recording)
    parity = compare(real.recording, simulated, real.bursts, LIMITS)
    _show(parity)
    _assert_same(parity)
    assert parity.equal == 300
    assert parity.evicted_blocks[0] == parity.evicted_blocks[1]
    assert parity.hit_tokens[0] == parity.hit_tokens[1]


async def test_simulated_replica_does_what_real_vllm_did(
    real: Run, tmp_path: Path, sockets: Path
) -> None:
    events = f"ipc://{sockets / 'simulated'}"
    options = (
        *("--profile=constant-step", f"--set=overhead_s={STEP_S}"),
        f"--num-blocks={LIMITS.num_blocks}",
        f"--block-size={LIMITS.block_size_tokens}",
        f"--max-num-seqs={LIMITS.max_num_seqs}",
        f"--max-num-batched-tokens={LIMITS.max_num_batched_tokens}",
        f"--max-model-len={LIMITS.max_model_len}",
        "--no-async-scheduling",
        f"--kv-events-endpoint={events}",
    )
    async with replicas.Replica(tmp_path, *options) as replica:
        server = http.ParityServer(f"http://{replica.address}", events)
        simulated = await http.record(
            server,
            await http.facts_of(server),
            real.bursts,
            who="simulated",
            like=real.recording,
            under_way=1,
        )
    parity = compare(real.recording, simulated, real.bursts, LIMITS)
    _show(parity)
    _assert_same(parity)


def _show(parity: Parity) -> None:
    Console(width=100).print(table_of(parity))
    print(f"first out of order: {parity.first_out_of_order}")
    for each in parity.differences:
        print(f"{each.request}: {each.real_tokens}, {each.simulated_tokens}: {each.detail}")
