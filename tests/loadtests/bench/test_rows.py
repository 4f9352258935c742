"""How figures are shown."""

import pytest

from loadtests.bench.rows import below, number


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"),
        (0.0254, "0.025"),
        (0.536, "0.536"),
        (-1.234, "-1.23"),
        (12.34, "12.3"),
        (159.4, "159"),
        (1897.2, "1,897"),
    ],
)
def test_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_an_aim_is_met_below_its_limit() -> None:
    assert below(0.49, 0.5, "ms") == ("< 0.5 ms", True)
    assert below(0.5, 0.5, "ms") == ("< 0.5 ms", False)
