"""``penstock lab limits``, against a gateway that does its accounts well or badly."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest
from typer.testing import CliRunner, Result

from loadtests.lab.command import app
from tests.loadtests.lab.limits.gateway import Flaw, LimitedGateway, serving

RULE = "total_tokens:1/second:burst=150"
QUICK = ("--seconds", "0.4", "--clients", "6", "--requests", "400", "--settle", "0.1", "--rested")


def limits(*words: str) -> Result:
    return CliRunner().invoke(app, ["limits", "--model", "m", *words])


def judged(flaw: Flaw, *words: str) -> Result:
    with serving(LimitedGateway(flaw)) as url:
        given = ("--target", url, "--limit", RULE, "--replica", url, "--admin", url, *QUICK)
        return limits(*given, *words)


def test_a_gateway_that_keeps_its_limit() -> None:
    result = judged("")
    assert result.exit_code == 0, result.output
    assert "the limits hold" in result.output
    assert "WRONG" not in result.output
    assert "Retry-After that is untrue" in result.output


@pytest.mark.parametrize(
    ("flaw", "finds"),
    [
        ("overshoot", "overshoot"),
        ("lost", "lost_tokens"),
        ("doubled", "doubled_tokens"),
        ("charged twice", "doubled_tokens"),
        ("refuses", "unjustified_429"),
        ("early", "untrue_retry_after"),
        ("late", "untrue_retry_after"),
    ],
)
def test_each_flaw_is_found(flaw: Flaw, finds: str) -> None:
    result = judged(flaw, "--json")
    assert result.exit_code == 1, result.output
    verdict = orjson.loads(result.stdout)
    assert not verdict["ok"]
    assert verdict["admitted"]
    found = {name for name, value in verdict.items() if isinstance(value, list | dict) and value}
    found |= {name for name in ("lost_tokens", "doubled_tokens") if verdict[name]}
    if not any(verdict["overshoot"].values()):
        found.discard("overshoot")
    assert finds in found


def test_a_second_run_right_behind_the_first() -> None:
    with serving(LimitedGateway()) as url:
        for _ in range(2):
            unrested = [word for word in QUICK if word != "--rested"]
            result = limits("--target", url, "--limit", RULE, *unrested)
            assert result.exit_code in (0, 2), result.output
            assert "WRONG" not in result.output


def test_usage_alone_judges_a_foreign_gateway() -> None:
    with serving(LimitedGateway()) as url:
        result = limits("--target", url, "--limit", RULE, "--key", "k", *QUICK)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--limit", "tokens:5/minute"], "COUNT:AMOUNT/PERIOD is wanted"),
        (["--limit", "requests:5/fortnight"], "COUNT:AMOUNT/PERIOD is wanted"),
        (["--limit", "requests:-5/day"], "COUNT:AMOUNT/PERIOD is wanted"),
        (["--limit", "requests:5/day:daily"], "'daily' is no option"),
        (
            ["--limit", "requests:5/day", "--replica", "http://127.0.0.1:9"],
            "http://127.0.0.1:9/sim",
        ),
        (["--limit", "requests:5/day", "--seconds", "0.2"], "no request was admitted"),
    ],
)
def test_nothing_to_judge(words: Sequence[str], says: str) -> None:
    result = limits("--target", "http://127.0.0.1:9", *words)
    assert result.exit_code == 2
    assert says in result.stderr
