"""A real vLLM, probed: what comes out is a profile that tells another load of the same server.

How fast that server is belongs to the machine and what else runs on it; what is asserted are the
things that do not: what it says of itself, that nothing it was asked was cached, and that the
model takes the same load with the same tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.sim.calibration.hf_config import read_architecture
from loadtests.sim.calibration.probe import PointKind, probe
from loadtests.sim.calibration.probe_check import check
from loadtests.sim.calibration.probe_fit import fit_points
from loadtests.sim.calibration.probe_http import HttpTarget
from loadtests.sim.model.scheduler import EngineLimits
from tests.real.vllm.install import interpreter
from tests.real.vllm.model import make
from tests.real.vllm.needed import need_vllm
from tests.real.vllm.server import Replica, ReplicaOptions

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


async def test_a_real_server_becomes_a_profile(tmp_path: Path) -> None:
    need_vllm()
    tiny = make(tmp_path, interpreter())
    shape = read_architecture(tiny.base)
    options = ReplicaOptions(model=tiny.base)
    async with Replica(options, log_folder=tmp_path) as replica, HttpTarget(replica.url) as target:
        facts = await target.facts()
        assert facts.num_blocks == 4095
        assert (facts.block_size_tokens, facts.max_model_len) == (32, 4096)
        points = await probe(target, facts, seconds=10.0)
        assert (await replica.counters()).prefix_cache_hits == 0
        fit = fit_points(points, facts, shape, None, max_num_batched_tokens=2048)
        limits = EngineLimits(
            facts.num_blocks, 32, max_num_seqs=16, max_num_batched_tokens=2048, max_model_len=4096
        )
        checked = await check(target, fit.profile, facts, limits, seconds=5.0)
    assert {point.kind for point in points} == set(PointKind)
    assert fit.profile.kv_blocks(32) == facts.num_blocks
    print(fit.profile.source)
    for each in checked:
        print(f"{each.what}: {each.measured:.4f} s, predicted {each.predicted:.4f} s")
        assert each.measured > 0
        assert each.predicted > 0
