"""The catalogue's workloads: figures near their sources, and the same bytes for a seed."""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadtests.workloads.arrivals import Stage
from loadtests.workloads.bodies import body as body_of
from loadtests.workloads.bodies import headers
from loadtests.workloads.catalogue import (
    CATALOGUE,
    SAAS_LADDER,
    Load,
    agentic_bursts,
    code_generation,
    fixed_corpus_saas,
    interactive_chat,
    lora_mix,
    multi_tenant,
    reasoning,
    requests_per_session,
)
from loadtests.workloads.sessions import Conversation, Request, Workload
from loadtests.workloads.summary import summarize, walk


def requests_of(workload: Workload, sessions: int = 400) -> list[Request]:
    """All requests of the first sessions, one session after the other."""
    requests: list[Request] = []
    for index in range(sessions):
        conversation = Conversation(workload.session(index))
        while not conversation.over:
            for request in conversation.ask(0.0):
                requests.append(request)
                conversation.answered(request)
    return requests


def means(workload: Workload, sessions: int = 400) -> tuple[float, float]:
    requests = requests_of(workload, sessions)
    return (
        statistics.fmean(request.prompt_tokens for request in requests),
        statistics.fmean(request.output_tokens for request in requests),
    )


def test_chat_is_as_the_catalogue_says() -> None:
    prompt, output = means(interactive_chat(1), 1_000)
    assert prompt == pytest.approx(4_000, rel=0.05)
    assert output == pytest.approx(300, rel=0.03)
    assert requests_per_session(interactive_chat(1), sample=1_000) == pytest.approx(4, rel=0.05)


def test_code_generation_is_near_what_was_published() -> None:
    workload = code_generation(1)
    own = [workload.session(index).context[-1].tokens for index in range(1_000)]
    assert statistics.fmean(own) == pytest.approx(55_000, rel=0.04)
    assert 3_000 <= min(own) <= max(own) <= 100_000
    turns = [len(workload.session(index).turns) for index in range(1_000)]
    assert statistics.fmean(turns) == pytest.approx(6, rel=0.05)
    assert (min(turns), max(turns)) == (2, 20)
    prompt, output = means(workload)
    assert prompt == pytest.approx(67_000, rel=0.08)
    assert output == pytest.approx(800, rel=0.05)


def test_nothing_is_shared_between_coding_sessions() -> None:
    traffic = Load.closed(10).traffic(code_generation(1), seed=1, max_requests=100)
    summary = summarize(walk(traffic))
    assert summary.repeated_elsewhere == 0
    assert summary.repeated > 0.7


def test_reasoning_has_short_questions_and_long_answers() -> None:
    prompt, output = means(reasoning(1), 2_000)
    assert prompt == pytest.approx(1_250, rel=0.05)
    assert output == pytest.approx(7_870, rel=0.05)


def test_each_client_of_reasoning_asks_three_times() -> None:
    traffic = CATALOGUE["reasoning"].load.traffic(reasoning(1), seed=1)
    asked = Counter(str(request.prompt) for request in walk(traffic))
    assert len(asked) == 200
    assert set(asked.values()) == {3}


def test_the_corpus_comes_round() -> None:
    workload = fixed_corpus_saas(1)
    prompts = [str(request.prompt) for request in requests_of(workload, 1_500)]
    assert len(set(prompts[:750])) == 750
    assert prompts[:750] == prompts[750:]
    request = requests_of(workload, 1)[0]
    assert [segment.tokens for segment in request.prompt.segments] == [6_000, 1_200]
    assert request.output_tokens == 1_000
    # 600 of the first 750 find their system prompt, and every one after that all of itself.
    once = Load.open(10.0).traffic(workload, seed=1, max_requests=750)
    assert summarize(walk(once)).repeated == pytest.approx(0.8 * 6_000 / 7_200)


def test_the_ladder_ends_at_60_requests_per_second() -> None:
    assert [stage.per_s for stage in SAAS_LADDER[1:]] == sorted(
        stage.per_s for stage in SAAS_LADDER[1:]
    )
    assert SAAS_LADDER[1].per_s == 3
    assert SAAS_LADDER[-1].per_s == 60


def test_agents_grow_their_context_and_send_others_out() -> None:
    requests = requests_of(agentic_bursts(1), 200)
    prompt = statistics.fmean(request.prompt_tokens for request in requests)
    assert 40_000 < prompt < 65_000
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    assert longest <= 131_072
    asides = sum(not request.id.endswith(".0") for request in requests)
    assert 0.2 < asides / len(requests) < 0.35
    traffic = CATALOGUE["agentic-bursts"].load.traffic(
        agentic_bursts(1), seed=1, max_requests=1_500
    )
    summary = summarize(walk(traffic))
    # The catalogue's agentic-trace-replay: 44.6k of 49.1k tokens repeat.
    assert summary.repeated == pytest.approx(0.91, abs=0.04)
    assert summary.gap_cv > 1.3


def test_adapters_are_popular_by_rank() -> None:
    counts = Counter(request.adapter for request in requests_of(lora_mix(1), 5_000))
    assert len(counts) == 50
    # 1 / (1 + 1/2 + ... + 1/50) = 22.2 %
    assert counts["adapter-00"] / 5_000 == pytest.approx(0.222, rel=0.08)
    assert counts["adapter-01"] / 5_000 == pytest.approx(0.111, rel=0.12)


def test_tenants_share_nothing() -> None:
    owners: dict[str, set[str]] = {}
    for request in requests_of(multi_tenant(1), 300):
        for segment in request.prompt.segments:
            owners.setdefault(segment.id, set()).add(request.tenant)
    assert len(set().union(*owners.values())) == 6
    assert all(len(tenants) == 1 for tenants in owners.values())


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_rate_is_one_of_requests(name: str) -> None:
    workload = CATALOGUE[name].make(1)
    load = Load(stages=(Stage(20.0, 2_000.0),))
    traffic = load.traffic(workload, seed=1, max_requests=12_000)
    arrivals = [request.arrival_s for request in walk(traffic)]
    # From the beginning on: some sessions have begun before it.
    assert 2_000 / arrivals[1_999] == pytest.approx(20.0, rel=0.15)
    assert 12_000 / arrivals[-1] == pytest.approx(20.0, rel=0.15)


@pytest.mark.parametrize("name", CATALOGUE)
def test_sessions_do_not_depend_on_the_order_they_are_asked_for(name: str) -> None:
    one, other = CATALOGUE[name].make(7), CATALOGUE[name].make(7)
    backwards = [other.session(index) for index in range(20, -1, -1)]
    assert [one.session(index) for index in range(21)] == backwards[::-1]
    assert CATALOGUE[name].make(8).session(0) != one.session(0)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_bound_declared_is_never_less_than_the_answer(name: str) -> None:
    for request in requests_of(CATALOGUE[name].make(1), 30):
        assert request.max_tokens is not None
        assert 1 <= request.output_tokens <= request.max_tokens


def test_the_command_writes_the_same_bytes(tmp_path: Path) -> None:
    def run(file: str, seed: int) -> str:
        dump = tmp_path / file
        arguments = ["lora-mix", "agentic-bursts", "--requests", "60", "--seed", str(seed)]
        done = subprocess.run(
            [sys.executable, "-m", "loadtests.workloads", *arguments, "--dump", str(dump)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "agentic-bursts" in done.stdout
        return hashlib.sha256(dump.read_bytes()).hexdigest()

    assert run("one", 1) == run("two", 1)
    assert run("one", 1) != run("three", 2)


def test_bodies_say_what_the_request_says() -> None:
    request = requests_of(lora_mix(1), 1)[0]
    body = body_of(request, "base", "chat")
    assert body["model"] == request.adapter
    assert body["max_tokens"] == request.output_tokens
    assert [message["role"] for message in request.prompt.messages()] == ["system", "user"]
    assert body_of(request, "base", "completions")["prompt"] == request.prompt.text()
    assert headers(request) == {"x-session-id": request.session}
    assert body_of(requests_of(reasoning(1), 1)[0], "base", "completions")["model"] == "base"


def test_a_load_is_open_or_closed() -> None:
    with pytest.raises(ValueError, match="either stages or a concurrency"):
        Load()
