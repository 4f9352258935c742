"""Why one replica won, in words."""

from __future__ import annotations

import pytest

from picker.explain.words import why
from picker.request.choice import Choice
from picker.request.role import Role
from policies.routing.types import EndpointView, Features

ROW = {
    "score": -0.5,
    "predicted_ttft_s": 0.4,
    "predicted_tpot_s": 0.01,
    "harm_s": 0.1,
    "matched_tokens": 0.0,
    "backlog_tokens": 0.0,
    "in_flight_requests": 1.0,
    "waiting_requests": 0.0,
}
IDLE = EndpointView(*[0.0] * len(EndpointView._fields))
CHOSEN = Features(0, IDLE, 1_000.0, 0.0, 10.0, False, False, False, False)


def words(
    *rows: dict[str, float], candidates: int = 0, session: str = "", prompt_tokens: float = 1_500
) -> str:
    """Of candidates a, b, ... of which a was chosen."""
    named = {name: {**ROW, **row} for name, row in zip("abcdefgh", rows, strict=False)}
    choice = Choice(Role.BOTH, "auto", ("a", "b"), CHOSEN, session, None)
    choice.candidates = candidates or len(rows)
    choice.endpoints = tuple(named)
    return why(prompt_tokens, choice, named)


def test_what_speaks_for_it_and_against_it() -> None:
    assert words(
        {"score": -0.25, "matched_tokens": 1_600, "predicted_ttft_s": 0.12, "harm_s": 0.2},
        {"matched_tokens": 300, "backlog_tokens": 4_000},
        {"score": -3},
    ) == (
        "It has the highest score of 3 candidates: -0.25; the next, b, -0.5. Better than there:"
        " 1,500 of 1,500 prompt tokens are cached (300), 0 (4,000) tokens are to be prefilled"
        " before it, first token expected after 120 ms (400 ms). Worse than there: harm to others"
        " 200 ms (100 ms)."
    )


def test_the_only_candidate() -> None:
    assert words({}) == "It was the only candidate."


@pytest.mark.parametrize(
    ("candidates", "equal"), [(3, "2 more have the same"), (90, "many more have the same")]
)
def test_alike(candidates: int, equal: str) -> None:
    said = words({}, {}, {}, candidates=candidates)
    assert equal in said
    assert said.endswith("it was taken by chance.")


def test_equal_scores_for_other_reasons() -> None:
    said = words({"matched_tokens": 100}, {})
    assert "1 more has the same" in said
    assert "100 of 1,500 prompt tokens are cached (0)" in said


def test_not_the_highest_score() -> None:
    assert words({"score": -2}, {}).startswith(
        "It has not the highest score of 2 candidates: -2 against -0.5 of b."
    )


def test_a_session() -> None:
    assert (
        words({}, session="a") == "It was the only candidate. The request's session is bound to it."
    )
    assert "session is bound to b" in words({}, {}, session="b")


def test_a_policy_that_says_nothing() -> None:
    choice = Choice(Role.BOTH, "mine", ("a", "b"), CHOSEN, "", None)
    assert why(1.0, choice, {}) == "The policy mine put it first and does not say why."
    choice.candidates = 7
    assert "does not say why" in why(1.0, choice, {"a": ROW})
