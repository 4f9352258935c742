"""Pools in trouble, and what a router hears."""

from dataclasses import replace
from statistics import fmean

from loadtests.lab.bound import goodput_bound
from loadtests.lab.experiment import calibrated
from loadtests.lab.outcome import Outcome
from loadtests.lab.setting import Seeing, Setting, Troubles
from loadtests.lab.simulation import Simulation
from loadtests.lab.source import Extent, Level, LevelKind, Source
from loadtests.lab.summary import Cut, Slo, figures
from policies.routing.spec import PolicySpec
from tests.loadtests.lab.conftest import Make

LEVEL = Level(4.0, LevelKind.RATE)
SOURCE = Source("interactive-chat")
EXTENT = Extent(20.0)


def _setting(make: Make, policy: str, **changes: object) -> Setting:
    experiment = make("interactive-chat", policy)
    spec = experiment.policies[0].spec
    return replace(Setting(experiment.profile, experiment.limits, 4, spec), **changes)  # type: ignore[arg-type]


def _run(setting: Setting) -> Outcome:
    return Simulation(setting, SOURCE.traffic(LEVEL, 1, EXTENT), seed=1).run()


def _tpot_s(outcome: Outcome, replicas: set[int], since_s: float = 0.0) -> float:
    return fmean(
        each.tpot_s
        for each in outcome.served
        if each.replica in replicas and each.arrival_s >= since_s and each.tpot_s is not None
    )


def test_slow_replicas_take_longer(make: Make) -> None:
    setting = _setting(make, "round-robin", troubles=Troubles(slow_share=0.5, slow_speed=0.25))
    outcome = _run(setting)
    assert _tpot_s(outcome, {0, 1}) > 3 * _tpot_s(outcome, {2, 3})


def test_one_replica_degrades_in_mid_run(make: Make) -> None:
    troubles = Troubles(degrade_at_s=10.0, degrade_speed=0.2)
    usual, degraded = (
        _run(_setting(make, "round-robin", troubles=each)) for each in (Troubles(), troubles)
    )
    ends = [each for each in degraded.served if each.replica == 3 and each.finished_s < 10.0]
    before = {each.id: each.finished_s for each in usual.served}
    assert ends
    assert all(before[each.id] == each.finished_s for each in ends)
    assert _tpot_s(degraded, {3}, 10.0) > 3 * _tpot_s(degraded, {0, 1, 2}, 10.0)


def test_requests_are_answered_when_metrics_are_lost_or_rare(make: Make) -> None:
    lost = _run(_setting(make, "auto", troubles=Troubles(deaf_from_s=5.0)))
    rare = _run(_setting(make, "auto", seeing=Seeing(5.0, 5.0)))
    for outcome in (lost, rare):
        assert len(outcome.served) > 40
        assert not any(each.failed for each in outcome.served)


def test_llm_d_has_the_speed_of_the_replicas_and_keeps_what_is_given(make: Make) -> None:
    setting = _setting(make, "llm-d-token-aware")
    found = calibrated(setting.policy, setting.profile, setting.limits).params
    # An 8B model prefills faster than the 32B model of llm-d's default.
    assert 30_000 < float(str(found["peak_prefill_tokens_per_s"])) < 80_000
    given = PolicySpec("llm-d-token-aware", {"peak_prefill_tokens_per_s": 100.0})
    assert calibrated(given, setting.profile, setting.limits) == given
    plain = PolicySpec("round-robin")
    assert calibrated(plain, setting.profile, setting.limits) == plain


def test_no_policy_exceeds_the_bound(make: Make) -> None:
    slo = Slo(0.2, 0.05)
    for policy in ("round-robin", "auto"):
        setting = _setting(make, policy)
        outcome = _run(setting)
        window = Cut().window(outcome)
        bound = goodput_bound(outcome, window, slo, setting)
        found = figures(outcome, window, slo)
        assert bound is not None
        assert found.goodput_per_s <= bound <= found.arrived_per_s + 1e-9


def test_what_was_cached_is_at_most_what_could_have_been(make: Make) -> None:
    outcome = _run(_setting(make, "random"))
    for each in outcome.served:
        assert each.best_cached_tokens is not None
        assert each.repeated_tokens is not None
        assert (each.cached_tokens or 0) <= each.best_cached_tokens <= each.repeated_tokens
    assert sum(each.cached_tokens or 0 for each in outcome.served) < sum(
        each.best_cached_tokens or 0 for each in outcome.served
    )
