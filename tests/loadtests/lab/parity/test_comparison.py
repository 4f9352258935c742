"""Parity: where the simulator differs from what was recorded, the comparison says so."""

from __future__ import annotations

import copy
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import pytest

from loadtests.lab.parity import virtual
from loadtests.lab.parity.asks import Burst, ParityRequest, make
from loadtests.lab.parity.comparison import Cause, Parity, compare
from loadtests.lab.parity.recording import Moment, ParityError, Recording
from loadtests.lab.parity.virtual import replay
from loadtests.sim.model.kv import BlockPool
from loadtests.sim.model.request import Sequence
from loadtests.sim.model.scheduler import EngineLimits, Scheduler

LIMITS = EngineLimits(
    num_blocks=96,
    block_size_tokens=32,
    max_num_seqs=12,
    max_num_batched_tokens=256,
    max_model_len=1024,
    async_scheduling=False,
)
BURSTS = make(300, 1, LIMITS)


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return replay(BURSTS, LIMITS, who="recorded")


def test_requests_press_hard_enough_to_tell_engines_apart(recorded: Recording) -> None:
    asks = [ask for burst in BURSTS for ask in burst.asks]
    assert len(asks) == len({ask.name for ask in asks}) == 300
    assert recorded.preemptions > 30
    assert recorded.evicted_blocks is not None
    assert recorded.evicted_blocks > 1000
    assert set(recorded.stops.values()) == {"evicted", "not there yet", "all of it found"}
    assert sum(answer.cached_tokens > 0 for answer in recorded.answers.values()) > 100
    assert any(ask.continues for ask in asks)
    assert {answer.prompt_tokens % 32 == 0 for answer in recorded.answers.values()} == {True, False}
    assert all(
        recorded.answers[ask.name].output_tokens == ask.max_tokens
        and recorded.answers[ask.name].prompt_tokens + ask.max_tokens <= LIMITS.max_model_len
        for ask in asks
    )


def test_same_arguments_make_the_same_requests() -> None:
    assert make(40, 5, LIMITS) == make(40, 5, LIMITS)
    assert make(40, 5, LIMITS) != make(40, 6, LIMITS)


def test_recording_equals_its_replay(recorded: Recording) -> None:
    parity = compare(recorded, replay(BURSTS, LIMITS, recorded), BURSTS, LIMITS)
    assert parity.holds
    assert parity.equal == 300
    assert parity.ordered > 200
    assert parity.arrivals_equal


class _FrontOfPrefixFirst(BlockPool):
    def release(self, blocks: SequenceOf[int]) -> None:
        super().release(blocks[::-1])


class _NewestFirst(BlockPool):
    def release(self, blocks: SequenceOf[int]) -> None:
        super().release(blocks)
        for block in blocks:
            if block in self._free:
                self._free.move_to_end(block, last=False)


class _WrongEviction(Scheduler):
    pool_type: type[BlockPool]

    def __init__(self, limits: EngineLimits, listener: virtual._CacheHistory) -> None:
        super().__init__(limits, listener)
        self.pool = self.pool_type(limits.num_blocks, listener=listener)


class _EvictsFrontFirst(_WrongEviction):
    pool_type = _FrontOfPrefixFirst


class _EvictsNewestFirst(_WrongEviction):
    pool_type = _NewestFirst


class _ComputesNothingOnFullHits(Scheduler):
    def _admit(self, sequence: Sequence, cached: list[int], now_s: float) -> None:
        super()._admit(sequence, cached, now_s)
        if sequence.cached_tokens == sequence.prompt_tokens - 32:
            sequence.cached_tokens = sequence.prompt_tokens


class _PreemptedGoLast(Scheduler):
    def _preempt(self, sequence: Sequence) -> None:
        super()._preempt(sequence)
        self.waiting.rotate(-1)


class _PreemptsTheOldest(Scheduler):
    def _continue_running(self, *given: object) -> int:
        self.running.reverse()
        try:
            return super()._continue_running(*given)  # type: ignore[arg-type]
        finally:
            self.running.reverse()


@pytest.mark.parametrize(
    "wrong",
    [
        _EvictsFrontFirst,
        _EvictsNewestFirst,
        _ComputesNothingOnFullHits,
        _PreemptedGoLast,
        _PreemptsTheOldest,
    ],
)
def test_engine_with_other_rules_is_found_out(
    wrong: type[Scheduler], recorded: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(virtual, "Scheduler", wrong)
        simulated = replay(BURSTS, LIMITS, recorded)
    parity = compare(recorded, simulated, BURSTS, LIMITS)
    assert not parity.holds
    assert parity.unexplained or parity.order_differs is Cause.UNEXPLAINED


@pytest.mark.parametrize(
    "other",
    [
        replace(LIMITS, num_blocks=95),
        replace(LIMITS, max_num_seqs=6),
        replace(LIMITS, max_num_batched_tokens=128),
        replace(LIMITS, async_scheduling=True),
        replace(LIMITS, reserve_full_prompt=False),
        replace(LIMITS, long_prefill_token_threshold=64),
        replace(LIMITS, prefix_caching=False),
    ],
)
def test_engine_with_other_limits_is_found_out(other: EngineLimits, recorded: Recording) -> None:
    assert not compare(recorded, replay(BURSTS, other, recorded), BURSTS, LIMITS).holds


def _later(recorded: Recording, tokens: int) -> Recording:
    """What the model does when bursts come so much later into others."""
    moved = copy.copy(recorded)
    moved.came = [
        Moment(clock.request, clock.tokens + tokens) if clock is not None else None
        for clock in recorded.came
    ]
    return replay(BURSTS, LIMITS, moved)


def _echo(after_tokens: int) -> list[Burst]:
    """A second request whose prompt is the first one with what it answers meanwhile."""
    prompt = tuple(range(300, 332))
    said = tuple(range(virtual.FIRST_ANSWER_TOKEN, virtual.FIRST_ANSWER_TOKEN + 100))
    first = ParityRequest("first", prompt, 200)
    return [Burst((first,)), Burst((ParityRequest("second", prompt + said, 1),), after_tokens)]


def test_arrival_a_step_later_explains_what_it_changes() -> None:
    bursts = _echo(31)
    sooner, later = (replay(_echo(tokens), LIMITS) for tokens in (31, 32))
    assert (sooner.answers["second"].cached_tokens, later.answers["second"].cached_tokens) == (
        32,
        64,
    )
    parity = compare(sooner, later, bursts, LIMITS)
    assert [(each.request, each.reason) for each in parity.differences] == [
        ("second", Cause.ARRIVAL)
    ]
    assert parity.differences[0].detail == (
        "next block: real not there yet, simulated not there yet"
    )
    assert parity.holds
    # The same if that one does not say so itself.
    later.came = sooner.came
    assert compare(sooner, later, bursts, LIMITS) == parity
    # But what no arrival gives is not explained by any.
    later.answers["second"].cached_tokens = 96
    assert [each.reason for each in compare(sooner, later, bursts, LIMITS).differences] == [
        Cause.UNEXPLAINED
    ]


def test_other_arrivals_do_not_excuse_a_wrong_engine(
    recorded: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(virtual, "Scheduler", _EvictsFrontFirst)
        simulated = _later(recorded, 25)
    parity = compare(recorded, simulated, BURSTS, LIMITS)
    assert parity.unexplained
    assert not parity.holds


def test_changed_count_and_changed_order_are_unexplained(recorded: Recording) -> None:
    simulated = copy.deepcopy(recorded)
    assert simulated.admitted is not None
    name = next(iter(simulated.answers))
    simulated.answers[name].cached_tokens += 32
    simulated.admitted[3:5] = simulated.admitted[4:2:-1]
    parity = compare(recorded, simulated, BURSTS, LIMITS)
    assert [each.request for each in parity.unexplained] == [name]
    assert parity.order_differs is Cause.UNEXPLAINED
    assert parity.first_out_of_order == recorded.admitted[3]  # type: ignore[index]


def test_preemptions_are_equal_or_close() -> None:
    equal = Parity(1, (), 0, None, None, (50, 50), (None, None), (0, 0), arrivals_equal=True)
    assert equal.preemptions_close
    assert not replace(equal, preemptions=(50, 51)).preemptions_close
    other = replace(equal, arrivals_equal=False)
    assert replace(other, preemptions=(50, 55)).preemptions_close
    assert not replace(other, preemptions=(50, 56)).preemptions_close


def test_burst_after_its_time_is_an_error(recorded: Recording) -> None:
    with pytest.raises(ParityError, match=r"r0000 never has 1000\d\d tokens"):
        _later(recorded, 100_000)


def test_adapters_share_nothing() -> None:
    limits = replace(LIMITS, max_loras=1)
    bursts = make(60, 3, limits, ("poet", "bard"))
    assert {ask.adapter for burst in bursts for ask in burst.asks} == {None, "poet", "bard"}
    plain = [Burst(tuple(replace(a, adapter=None) for a in b.asks), b.after_tokens) for b in bursts]
    assert replay(bursts, limits).hit_tokens < replay(plain, limits).hit_tokens
