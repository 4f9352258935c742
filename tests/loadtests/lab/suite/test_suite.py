"""The standing comparison on a row that takes a moment."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from loadtests.lab.jobs import do_all
from loadtests.lab.source import Extent, Level, LevelKind
from loadtests.lab.suite.rows import AUTO, load_rows, troubled_rows
from loadtests.lab.suite.runs import Run, do, kept, runs
from loadtests.lab.suite.table import _JUDGED, _versus, page


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    line = '{"timestamp": 0, "input_length": 512, "output_length": 5, "hash_ids": [1]}\n'
    (tmp_path / "mooncake_conversation_first_half.jsonl").write_text(line)
    (tmp_path / "azure_llm_2023_code.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
    )
    return tmp_path


def test_every_workload_has_three_loads_and_every_run_a_file(traces: Path) -> None:
    rows = [*load_rows(traces, ("auto", "random")), *troubled_rows(traces)]
    assert len({row.title for row in rows}) == len(rows)
    assert len({row.group for row in load_rows(traces, ())}) == 9
    planned = list(runs(rows, (11, 12)))
    assert len({run.file_name for run in planned}) == len(planned)


def test_what_is_kept_is_shown_and_not_done_again(traces: Path, tmp_path: Path) -> None:
    usual = next(load_rows(traces, (AUTO, "random")))
    row = replace(usual, level=Level(3.0, LevelKind.RATE), extent=Extent(12.0))
    folder = tmp_path / "kept"
    folder.mkdir()
    first, second = runs([row], (11,))
    assert kept(folder, first) is None
    do(first, folder)
    assert kept(folder, first)
    told: list[Run] = []
    do_all([second], partial(do, folder=folder), 1, told.append)
    assert told == [second]

    def found(_: object, policy: str) -> list[dict[str, float | None]]:
        figures = kept(folder, Run(row, policy, 11))
        return [dict(figures)] if figures else []

    text = page("penstock lab suite", [row], [], (11,), found)
    assert "| interactive-chat | comfortable, 3 requests/s |" in text
    assert "| random |" in text
    assert "Only" not in text
    half = page("penstock lab suite", [row], [], (11, 12), found)
    assert "Only 2 of 4 runs are done" in half


def test_a_row_in_which_nobody_has_any_goodput_is_no_loss() -> None:
    (goodput,) = (figure for figure in _JUDGED if figure.name == "goodput_per_s")
    nothing = {"auto": {"goodput_per_s": 0.0}, "weighted": {"goodput_per_s": 0.0}}
    assert "**" not in _versus(goodput, nothing)
    assert "**" in _versus(goodput, {**nothing, "weighted": {"goodput_per_s": 1.0}})
