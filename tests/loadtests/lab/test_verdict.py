"""The answer in words, from points made by hand."""

import pytest

from loadtests.lab.points import Point, difference
from loadtests.lab.source import Level, LevelKind
from loadtests.lab.summary import Slo
from loadtests.lab.verdict import Placing, rounded, sentences, verdicts


def point(
    policy: str,
    rate: float,
    goodputs: tuple[float, ...],
    *,
    share: float = 0.95,
    ttft_s: float | None = 1.0,
    replicas: int = 4,
    failed: int = 0,
) -> Point:
    by_seed: tuple[dict[str, float | int | None], ...] = tuple(
        {
            "goodput_per_s": each,
            "good_share": share,
            "ttft_mean_s": ttft_s,
            "requests": 100,
            "failed": failed,
        }
        for each in goodputs
    )
    return Point(policy, replicas, Level(rate, LevelKind.RATE), by_seed)


def test_differences_are_taken_seed_by_seed() -> None:
    # The seeds differ by far more than the policies do, but the policies always by one.
    one, other = point("a", 1, (10.0, 20.0, 30.0)), point("b", 1, (9.0, 19.0, 29.0))
    gap = difference(one, other, "goodput_per_s")
    assert gap is not None
    assert (gap.value, gap.error) == (1.0, 0.0)


def test_the_best_is_told_where_the_most_was_good() -> None:
    [verdict] = verdicts(
        [
            point("turns", 5, (4.9, 4.8), share=0.97), point("sticky", 5, (4.9, 5.0), share=0.98),
            point("turns", 10, (4.0, 4.2), share=0.4), point("sticky", 10, (9.0, 9.2), share=0.91),
            point("turns", 15, (1.0, 1.0), share=0.1), point("sticky", 15, (7.0, 7.0), share=0.5),
        ]
    )  # fmt: skip
    assert (verdict.best.contender, verdict.level.value) == ("sticky", 10)
    sticky, turns = verdict.ranks
    assert sticky.carries == Level(10, LevelKind.RATE)
    assert turns.carries == Level(5, LevelKind.RATE)
    assert turns.standing is Placing.BEHIND
    assert turns.behind is not None
    assert turns.behind.value == pytest.approx(5.0)
    first, second = sentences(verdict, Slo(2.0, 0.05))
    assert first.startswith("sticky answers the most requests within the SLO (TTFT up to 2 s, TPOT")
    assert "at 10 requests/s, 91% of those that came" in first
    there = "turns: 4.1 ± 1.3 requests/s, 5 ± 0 fewer (a factor of 2.2); at its own best, 5"
    assert second == f"{there} requests/s, 4.85 ± 0.64."


def test_what_cannot_be_told_apart_is_not_called_worse() -> None:
    points = [
        point("a", 1, (10.0, 10.0, 10.0)),
        point("b", 1, (9.9, 9.9, 9.9)),
        point("c", 1, (12.0, 9.0, 6.0)),
        point("d", 1, (5.0, 5.1, 4.9)),
    ]
    [verdict] = verdicts(points)
    assert [(rank.point.contender, rank.standing) for rank in verdict.ranks] == [
        ("a", Placing.BEST),
        ("b", Placing.PAR),
        ("c", Placing.OPEN),
        ("d", Placing.BEHIND),
    ]
    words = sentences(verdict, Slo())
    assert words[1] == "On a par with it, within 5%: b."
    assert words[2].endswith("which may be chance: more seeds would tell.")
    assert words[3].startswith("d: 5 ± 0.25 requests/s, 5 ± 0.25 fewer")


def test_where_nobody_meets_the_slo_the_soonest_answer_is_best() -> None:
    [verdict] = verdicts(
        [point("a", 1, (0.0,), share=0.0, ttft_s=9.0), point("b", 1, (0.0,), share=0.0, ttft_s=3.0)]
    )
    words = sentences(verdict, Slo())
    assert words[0].startswith("Nobody meets the SLO")
    assert "b has the lowest mean TTFT at 1 requests/s: 3 s." in words[0]
    assert words[1] == "a: 9 s, 6 more (a factor of 3)."
    assert words[-1].startswith("One seed only")


def test_failing_requests_is_no_way_to_be_soonest() -> None:
    late = point("late", 1, (0.0, 0.0), share=0.0, ttft_s=9.0)
    failing = point("failing", 1, (0.0, 0.0), share=0.0, ttft_s=3.0, failed=60)
    [verdict] = verdicts([failing, late])
    assert verdict.best.contender == "late"
    first, second = sentences(verdict, Slo())
    assert "late fails fewest, 0%, and answers the others with the mean TTFT" in first
    assert second.endswith("; 60% of its requests failed.")


def test_where_nothing_is_answered_no_figure_is_told() -> None:
    nothing = point("a", 1, (0.0,), share=0.0, ttft_s=None, failed=100)
    [verdict] = verdicts([nothing])
    [said] = sentences(verdict, Slo())
    assert said.endswith("No request was answered at 1 requests/s.")


def test_one_seed_proves_no_par() -> None:
    [verdict] = verdicts([point("a", 1, (10.0,)), point("b", 1, (9.9,)), point("c", 1, (5.0,))])
    assert [rank.standing for rank in verdict.ranks] == [
        Placing.BEST, Placing.OPEN, Placing.BEHIND,
    ]  # fmt: skip


def test_each_size_of_fleet_has_its_answer() -> None:
    points = [point("a", 1, (1.0,)), point("a", 1, (2.0,), replicas=8)]
    assert [verdict.replicas for verdict in verdicts(points)] == [4, 8]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12.345, "12.3"), (43_760.4, "43,800"), (0.000123456, "0.000123"), (-2.0, "-2")],
)
def test_figures_are_short_and_without_exponents(value: float, text: str) -> None:
    assert rounded(value) == text
