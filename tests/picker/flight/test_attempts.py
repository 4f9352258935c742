"""From a report to what each try says about its replica."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from picker.flight.attempts import PATIENCE_S, attempts, blames_request
from picker.request.attempt import FAULTS, Outcome, outcome_of
from picker.request.report import Ending, LastTry, Report

CHOICES = ("a:1", "b:1", "c:1")


def report(address: str = "a:1", status: int = 200, **more: object) -> Report:
    reason = Ending.OK if status < 400 else Ending.HTTP_ERROR
    made = Report("id", "p0", address, status, reason, 1.0, tries=())
    return replace(made, **more)


def outcomes(told: Report) -> list[tuple[str, Outcome]]:
    return [(one.address, one.outcome) for one in attempts(told, CHOICES, names_model=True)]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.SERVED),
        (400, Outcome.UNKNOWN),
        (401, Outcome.UNKNOWN),
        (403, Outcome.UNKNOWN),
        (408, Outcome.UNKNOWN),
        (413, Outcome.UNKNOWN),
        (422, Outcome.UNKNOWN),
        (404, Outcome.NO_MODEL),
        (429, Outcome.OVERLOADED),
        (500, Outcome.FAILED),
        (501, Outcome.UNKNOWN),
        (502, Outcome.FAILED),
        (503, Outcome.FAILED),
        (504, Outcome.SILENT),
        (529, Outcome.FAILED),
    ],
)
def test_whose_fault_a_status_is(status: int, outcome: Outcome) -> None:
    assert outcome_of(status, names_model=True) is outcome
    assert outcomes(report(status=status)) == [("a:1", outcome)]
    without = outcome_of(404, names_model=False)
    assert without not in FAULTS


def test_earlier_tries_are_the_choices_before_the_one_that_served() -> None:
    assert outcomes(report("c:1", tries=("refused", "500"))) == [
        ("a:1", Outcome.REFUSED),
        ("b:1", Outcome.FAILED),
        ("c:1", Outcome.SERVED),
    ]
    # Another gateway names only who served.
    assert outcomes(report("b:1", tries=None)) == [
        ("a:1", Outcome.FAILED),
        ("b:1", Outcome.SERVED),
    ]
    # Envoy did not know the first one any more: which of them failed is not sure.
    assert outcomes(report("c:1", tries=("500",))) == [("c:1", Outcome.SERVED)]


def test_a_request_that_is_given_up_says_nothing_of_a_replica_that_never_got_it() -> None:
    told = report("c:1", 502, tries=("reset", "reset"), last_try=LastTry.NONE)
    assert outcomes(told) == [("a:1", Outcome.BROKEN_OFF), ("b:1", Outcome.BROKEN_OFF)]
    assert blames_request(attempts(told, CHOICES, names_model=True))


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"last_try": LastTry.REFUSED, "upstream_failed": True}, Outcome.REFUSED),
        ({"last_try": LastTry.RESET, "upstream_failed": True}, Outcome.BROKEN_OFF),
        ({"last_try": LastTry.TIMEOUT}, Outcome.SILENT),
        ({"last_try": LastTry.TIMEOUT, "ttft_s": 0.5}, Outcome.UNKNOWN),
        ({"reason": Ending.ENGINE_ERROR, "status": 200}, Outcome.FAILED),
        ({"reason": Ending.NO_OUTPUT, "status": 200}, Outcome.SERVED),
        ({"reason": Ending.CLIENT_ABORTED}, Outcome.UNKNOWN),
        ({"reason": Ending.CLIENT_ABORTED, "duration_s": PATIENCE_S}, Outcome.ABANDONED),
        (
            {"reason": Ending.CLIENT_ABORTED, "duration_s": PATIENCE_S, "ttft_s": 1.0},
            Outcome.UNKNOWN,
        ),
    ],
)
def test_what_has_no_status_of_its_own(more: dict[str, object], outcome: Outcome) -> None:
    assert outcomes(replace(report(status=503), **more)) == [("a:1", outcome)]


def test_only_what_failed_everywhere_may_be_the_requests_fault() -> None:
    def blamed(told: Report) -> bool:
        return blames_request(attempts(told, CHOICES, names_model=True))

    assert blamed(report("b:1", 500, tries=("500",)))
    assert not blamed(report("a:1", 500))
    assert not blamed(report("b:1", 200, tries=("500",)))
