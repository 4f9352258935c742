"""Addresses, numbers and times."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tests.gateway.config.texts import HASH, KEY, Refusal, loaded


def test_numbers_are_taken_as_they_are_written(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        pricing: {models: [{model: m, input: 0.15, cached_input: .015, output: 1e-6},
                           {model: n, input: 3, output: 15.50}]}
        tenants: [{name: a, limits: [{count: cost, limit: 999999999.999999, period: month}]}]
        """,
    )
    assert config.pricing is not None
    first, second = config.pricing.models
    assert (first.input, first.cached_input, first.output) == (
        Decimal("0.15"),
        Decimal("0.015"),
        Decimal("0.000001"),
    )
    assert (second.input, second.output) == (Decimal(3), Decimal("15.5"))
    assert config.tenants[0].limits[0].limit == Decimal("999999999.999999")


def test_times_are_instants(tmp_path: Path) -> None:
    config = loaded(tmp_path, KEY.format(HASH + ", expires: 2027-01-31T02:00:00+02:00"))
    assert config.tenants[0].keys[0].expires == datetime(2027, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(
            Refusal(
                "listen: {address: localhost}\n",
                (1, 19),
                "listen.address",
                '"localhost"',
                "an IP address",
                "use 127.0.0.1",
            ),
            id="address",
        ),
        *(
            pytest.param(
                Refusal(
                    f"passthrough: ['{path}']\n",
                    (1, 15),
                    "passthrough[0]",
                    path,
                    "a path such as /v1/files",
                    hint,
                ),
                id=f"passthrough {path}",
            )
            for path, hint in (
                ("v1/files", None),
                ("/v1//files", None),
                ("/v1/files/", None),
                ("/v1/../sleep", None),
                ("/v1/files?x=1", None),
                ("/v1/%66iles", None),
                ("/v1/files;x", None),
                ("/v1 files", None),
                ("/*", "control paths"),
                ("/v1/*/content", "only at the end"),
                ("/v1/files*", "only at the end"),
            )
        ),
    ],
)
def test_a_problem_has_its_position_and_says_what_is_right(
    tmp_path: Path, refusal: Refusal
) -> None:
    refusal.check(tmp_path)
