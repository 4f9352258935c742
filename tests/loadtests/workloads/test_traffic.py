"""Open and closed loop, conversations that go on, failures."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import islice, pairwise

import pytest

from loadtests.workloads.arrivals import Stage, arrival_times
from loadtests.workloads.catalogue import interactive_chat
from loadtests.workloads.prompts import Role, Segment
from loadtests.workloads.sessions import Ask, Conversation, Request, Session, Turn
from loadtests.workloads.summary import walk
from loadtests.workloads.traffic import ClosedLoop, OpenLoop
from loadtests.workloads.words import BYTES_PER_TOKEN
from picker.state.cache.approximate import ApproximateIndex


@dataclass(frozen=True)
class Small:
    """Sessions of ``turns`` steps, 2 s apart, with ``asides`` beside the second."""

    turns: int = 2
    asides: int = 0
    last: int = 1_000
    name: str = "small"

    def session(self, index: int) -> Session:
        if index >= self.last:
            raise IndexError(index)
        steps = []
        for turn in range(self.turns):
            count = 1 + (self.asides if turn == 1 else 0)
            asks = [
                Ask((Segment(f"{index}/ask/{turn}.{n}", 10),), 5, max_tokens=20)
                for n in range(count)
            ]
            steps.append(Turn(tuple(asks), pause_s=2.0 if turn else 0.0))
        return Session(f"s{index}", (Segment("system", 100, Role.SYSTEM),), tuple(steps))


def ids(requests: list[Request]) -> list[str]:
    return [request.id for request in requests]


def test_arrivals_of_a_poisson_process_and_of_bursts() -> None:
    def gaps(cv: float) -> list[float]:
        times = list(arrival_times([Stage(10, 2_000)], seed=3, cv=cv))
        assert times == sorted(times)
        return [after - before for before, after in pairwise(times)]

    for cv in (1.0, 0.5, 3.0):
        seen = gaps(cv)
        assert statistics.fmean(seen) == pytest.approx(0.1, rel=0.08)
        assert statistics.pstdev(seen) / statistics.fmean(seen) == pytest.approx(cv, rel=0.08)
    assert gaps(0.0) == pytest.approx([0.1] * 19_998, abs=1e-9)


def test_stages_follow_each_other() -> None:
    stages = [Stage(2, 10), Stage(0, 5), Stage(20, 10)]
    times = list(arrival_times(stages, seed=1, cv=0))
    assert [sum(low <= time < low + 5 for time in times) for low in (0, 5, 10, 15, 20)] == [
        9, 10, 0, 99, 100,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a rate from 0 and a duration over 0"):
        Stage(-1, 10)


def test_arrivals_are_the_same_for_a_seed() -> None:
    def times(seed: int) -> list[float]:
        return list(islice(arrival_times([Stage(5, 1e9)], seed=seed, cv=2.0), 100))

    assert times(4) == times(4)
    assert times(4) != times(5)


def test_an_open_loop_does_not_wait() -> None:
    traffic = OpenLoop(Small(turns=1), [1.0, 2.0, 2.0, 7.0])
    assert traffic.next_s() == 1.0
    assert ids(traffic.take(2.0)) == ["s0/0.0", "s1/0.0", "s2/0.0"]
    assert traffic.in_flight == 3
    assert traffic.next_s() == 7.0
    assert traffic.take(6.9) == []


def test_a_conversation_goes_on_from_the_answer() -> None:
    traffic = OpenLoop(Small(), [0.0])
    (first,) = traffic.take(0.0)
    assert traffic.next_s() is None
    traffic.answered(first, 3.0)
    assert traffic.next_s() == 5.0
    (second,) = traffic.take(5.0)
    assert second.arrival_s == 5.0
    assert [(s.id, s.tokens) for s in second.prompt.segments] == [
        ("system", 100),
        ("0/ask/0.0", 10),
        ("s0/0.0/answer", 5),
        ("0/ask/1.0", 10),
    ]
    # What the engine has after the first answer is the beginning of the second prompt.
    assert second.block_ids(5)[: 115 // 5] == first.block_ids(5)
    traffic.answered(second, 6.0)
    assert traffic.next_s() is None
    assert traffic.in_flight == 0


def test_the_pickers_index_finds_the_turn_before() -> None:
    traffic = ClosedLoop(interactive_chat(1), 1)
    (first,) = traffic.take(0.0)
    index = ApproximateIndex()
    index.sent(2, first.live_blocks().chains)
    traffic.answered(first, 1.0)
    (second,) = traffic.take(1_000.0)
    assert first.session == second.session
    matched = index.match(second.live_blocks(), second.prompt_tokens, 3)
    assert matched[:2].tolist() == [0.0, 0.0]
    # All of the first prompt but its last partial block.
    assert first.prompt_tokens - 1_024 / BYTES_PER_TOKEN < matched[2] <= first.prompt_tokens


def test_the_answer_that_was_really_given_is_repeated() -> None:
    traffic = OpenLoop(Small(), [0.0])
    (first,) = traffic.take(0.0)
    traffic.answered(first, 1.0, text="Indeed.", tokens=2)
    (second,) = traffic.take(3.0)
    assert second.prompt.messages()[2] == {"role": "assistant", "content": "Indeed."}
    assert second.prompt_tokens == 100 + 10 + 2 + 10


def test_asides_are_sent_together_and_waited_for() -> None:
    conversation = Conversation(Small(turns=3, asides=2).session(0))
    (first,) = conversation.ask(0.0)
    assert conversation.answered(first) == 2.0
    main, aside, other = conversation.ask(2.0)
    assert main.prompt.segments[:3] == aside.prompt.segments[:3] == other.prompt.segments[:3]
    assert conversation.answered(main) is None
    assert conversation.answered(other) is None
    assert conversation.ask(4.0) == []
    assert conversation.answered(aside) == 2.0
    (last,) = conversation.ask(9.0)
    assert last.prompt.segments[:-1] == main.prompt.then(main.answer).segments
    assert conversation.answered(last) is None
    assert conversation.over


def test_a_closed_loop_begins_a_session_when_one_ends() -> None:
    traffic = ClosedLoop(Small(turns=1), 2)
    first, second = traffic.take(0.0)
    assert ids([first, second]) == ["s0/0.0", "s1/0.0"]
    assert traffic.next_s() is None
    traffic.answered(second, 4.0)
    assert ids(traffic.take(4.0)) == ["s3/0.0"]  # of client 1: sessions 1, 3, 5 ...
    traffic.answered(first, 5.0)
    assert ids(traffic.take(5.0)) == ["s2/0.0"]


def test_a_closed_loop_can_have_the_same_sessions_again() -> None:
    traffic = ClosedLoop(Small(turns=1), 1, recycle=True, requests_per_client=2)
    (first,) = traffic.take(0.0)
    traffic.answered(first, 1.0)
    (again,) = traffic.take(1.0)
    assert (first.id, again.id) == ("s0/0.0", "s0~1/0.0")
    assert first.prompt == again.prompt
    traffic.answered(again, 2.0)
    assert traffic.next_s() is None


def test_a_client_stops_within_a_session() -> None:
    traffic = ClosedLoop(Small(turns=4), 3, requests_per_client=2)
    assert len(list(walk(traffic))) == 6


def test_clients_can_begin_one_after_another() -> None:
    traffic = ClosedLoop(Small(), 4, ramp_s=8.0)
    assert [len(traffic.take(now_s)) for now_s in (0.0, 1.9, 2.0, 6.0)] == [1, 0, 1, 2]


def test_a_closed_loop_ends_with_a_finite_workload() -> None:
    assert len(list(walk(ClosedLoop(Small(turns=1, last=7), 3)))) == 7


def test_a_failure_ends_the_session() -> None:
    traffic = ClosedLoop(Small(turns=3, asides=1), 1)
    (first,) = traffic.take(0.0)
    traffic.answered(first, 0.0)
    main, aside = traffic.take(2.0)
    traffic.failed(main, 3.0)
    assert traffic.next_s() == 4.0  # a second later, with the next session
    traffic.answered(aside, 3.5)
    assert ids(traffic.take(4.0)) == ["s1/0.0"]
    assert traffic.next_s() is None
    alone = OpenLoop(Small(), [0.0])
    alone.failed(alone.take(0.0)[0], 1.0)
    assert alone.next_s() is None
    assert alone.in_flight == 0


def test_two_failures_of_one_step_end_the_session_once() -> None:
    traffic = ClosedLoop(Small(asides=1), 1)
    traffic.answered(traffic.take(0.0)[0], 0.0)
    for request in traffic.take(2.0):
        traffic.failed(request, 3.0)
    assert ids(traffic.take(9.0)) == ["s1/0.0"]


def test_sessions_that_begin_before_the_run_are_under_way_in_it() -> None:
    # Steps at -5, about -2.7 and -0.4, then 1.9: an unloaded answer takes 0.3 s, a pause 2 s.
    traffic = OpenLoop(Small(turns=5), [-100.0, -5.0, 1.0])
    arrivals = [(request.id, request.arrival_s) for request in walk(traffic)]
    assert arrivals[0] == ("s2/0.0", 1.0)
    assert arrivals[1][1] == pytest.approx(-5.0 + 3 * 2.3)
    assert [id_ for id_, _ in arrivals if id_.startswith("s1")] == ["s1/3.0", "s1/4.0"]
    assert not any(id_.startswith("s0") for id_, _ in arrivals)
    traffic = OpenLoop(Small(turns=5), [-5.0])
    (request,) = traffic.take(2.0)
    assert len(request.prompt.segments) == 1 + 3 * 2 + 1  # with what was said before


def test_no_more_than_asked_for_and_none_too_late() -> None:
    assert len(list(walk(ClosedLoop(Small(), 3, max_requests=10)))) == 10
    late = walk(ClosedLoop(Small(), 3, until_s=10.0))
    assert max(request.arrival_s for request in late) < 10.0
    times = (float(second) for second in range(1000))
    assert len(list(walk(OpenLoop(Small(turns=1), times, until_s=10.0)))) == 10
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        ClosedLoop(Small(), 0)
