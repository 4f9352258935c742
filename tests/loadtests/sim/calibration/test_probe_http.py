"""Probing over HTTP, and the command that does it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from loadtests.sim.calibration import fit
from loadtests.sim.calibration.probe import PointKind, ProbeError, ProbeRequest, probe
from loadtests.sim.calibration.probe_http import HttpTarget
from loadtests.sim.model.profile import built_in, read_profile
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.server import ReplicaServer
from tests.loadtests.conftest import Serve

STEP_S = 0.004
ENGINE = EngineSettings(
    replace(built_in("constant-step"), overhead_s=STEP_S),
    EngineLimits(2048, max_model_len=1024, max_num_seqs=4),
)
SHAPE = (
    '{"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, '
    '"intermediate_size": 128, "vocab_size": 2048}'
)


def address(server: ReplicaServer) -> str:
    return f"http://127.0.0.1:{server.port}"


async def invoke(*words: str) -> Result:
    """The command in a thread: its event loop is not the one that the server runs in."""
    app = typer.Typer()
    app.command()(fit.main)
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, words, env={"COLUMNS": "160"}))


async def test_a_server_says_what_it_is(serve: Serve) -> None:
    server = await serve(engine=ENGINE)
    async with HttpTarget(address(server) + "/v1/") as target:
        facts = await target.facts()
    assert (facts.model, facts.max_model_len, facts.block_size_tokens) == ("sim-model", 1024, 16)
    assert facts.num_blocks in (2047, 2048)


async def test_answers_have_the_tokens_asked_for_and_nothing_is_cached(serve: Serve) -> None:
    server = await serve(engine=replace(ENGINE, time_scale=0.0))
    async with HttpTarget(address(server)) as target:
        await target.facts()
        await target.group([ProbeRequest(400, 1)])  # from here on it knows how long words are
        asks = [ProbeRequest(100, 12), ProbeRequest(400, 1), ProbeRequest(100, 30, after_s=0.05)]
        answers = await target.group(asks)
    for ask, answer in zip(asks, answers, strict=True):
        assert len(answer.token_s) == ask.output_tokens
        assert answer.prompt_tokens == pytest.approx(ask.prompt_tokens, rel=0.15)
        assert answer.sent_s < answer.token_s[0]
    assert answers[2].sent_s >= answers[0].sent_s + 0.045
    assert server.replica.engine.stats.prefix_hits == 0


async def test_steps_are_never_found_shorter_than_they_are(serve: Serve) -> None:
    server = await serve(engine=ENGINE)
    async with HttpTarget(address(server)) as target:
        facts = await target.facts()
        points = await probe(target, facts, seconds=2.0)
    assert {point.kind for point in points} == set(PointKind)
    assert all(point.value_s > 0.95 * STEP_S for point in points)
    assert {point.sequences for point in points} <= {1, 2, 4}


async def test_the_command_makes_a_profile_of_a_server(serve: Serve, tmp_path: Path) -> None:
    server = await serve(engine=ENGINE)
    (tmp_path / "config.json").write_text(SHAPE)
    result = await invoke(
        *("--probe", address(server), "--config", str(tmp_path / "config.json")),
        *("--accelerator", "generic", "--seconds", "2", "--save", str(tmp_path / "mine.yaml")),
    )
    assert result.exit_code == 0, result.output
    assert "TTFT of a prompt of" in result.stdout
    assert "mean latency" in result.stdout
    profile = read_profile(tmp_path / "mine.yaml")
    assert profile.model.layers == 2
    assert profile.kv_blocks(16) in (2047, 2048)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "either a FILE of measurements or --probe URL"),
        (("--accelerator", "abacus"), "abacus: not known; known are h100"),
        ((), "--model NAME --config FILE"),
    ],
)
async def test_what_is_missing_is_said(serve: Serve, words: tuple[str, ...], says: str) -> None:
    server = await serve(engine=ENGINE)
    given = () if "either" in says else ("--probe", address(server))
    result = await invoke(*given, *words)
    assert result.exit_code == 2
    assert says in result.output


async def test_a_server_that_is_not_there_is_said(serve: Serve) -> None:
    server = await serve(engine=ENGINE)
    url = address(server)
    await server.stop()
    result = await invoke("--probe", url)
    assert result.exit_code == 2
    assert f"{url}/v1/models: Cannot connect to host" in result.output.replace("\n", " ")


async def test_a_server_that_lists_no_models_is_said(serve: Serve) -> None:
    server = await serve(engine=ENGINE)
    result = await invoke("--probe", address(server) + "/elsewhere")
    assert result.exit_code == 2
    assert "/elsewhere/v1/models: 404 Not Found" in result.output


async def test_a_refused_request_is_said(serve: Serve) -> None:
    server = await serve(engine=ENGINE)
    async with HttpTarget(address(server)) as target:
        await target.facts()
        with pytest.raises(ProbeError, match="400"):
            await target.group([ProbeRequest(100, 2000)])
