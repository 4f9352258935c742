"""How figures are shown."""

from math import nan

import pytest

from loadtests.bench.rows import Row, below, comparison, markdown, number, table


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


def test_what_is_compared_stands_side_by_side() -> None:
    rows = [
        Row("memory", 80.0, "MB", "", subject="one"),
        Row("streams", 512, "", "", subject="one"),
        Row("not measured", nan, "", "it cannot be installed", subject="two"),
        Row("memory", 1.0, "MB", "another figure"),
    ]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(rows).split("\n")
    ]
    assert lines[0] == ["figure", "one", "two"]
    assert ["memory, MB", "80.0", "-"] in lines
    assert ["streams", "512", "-"] in lines
    assert ["not measured", "-", "-"] in lines
    assert "- two: not measured: it cannot be installed" in markdown(rows)
    assert table(rows, "").row_count == 1
    assert comparison(rows[3:]) is None
