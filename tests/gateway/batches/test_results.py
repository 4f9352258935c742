"""The output as a journal: a death at any byte loses no line and doubles none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.batches.folder import Folder
from gateway.batches.lines import Limits, Line, digest
from gateway.batches.outcome import CANCELLED, Answered, outcome_of
from gateway.batches.records import BatchRecord, Counts, Owner
from gateway.batches.results import AnswerFile
from gateway.batches.run import BatchRun, BrokenInput

CHAT = "/v1/chat/completions"
LIMITS = Limits(1_000, 10_000)


def answer(custom_id: str, tokens: int = 1) -> bytes:
    body = json.dumps({"usage": {"prompt_tokens": tokens, "completion_tokens": 0}}).encode()
    found = outcome_of(custom_id, 200, {}, body)
    assert isinstance(found, Answered)
    return found.line


def test_whatever_was_written_when_it_died_whole_lines_stay(tmp_path: Path) -> None:
    whole = answer("a", 3) + answer("b", 4)
    first = len(answer("a", 3))
    for end in sorted({*range(0, len(whole), 9), first - 1, first, len(whole) - 1, len(whole)}):
        path = tmp_path / str(end)
        path.write_bytes(whole[:end])
        file = AnswerFile(path)
        found = file.recover()
        kept = [digest("a")] * (end >= first) + [digest("b")] * (end == len(whole))
        assert found.ids == kept
        assert found.used.input_tokens == 3 * (end >= first) + 4 * (end == len(whole))
        file.append([answer("c")])
        file.close()
        assert [json.loads(one)["custom_id"] for one in path.read_bytes().splitlines()] == [
            *("ab"[: len(kept)]),
            "c",
        ]


def test_an_empty_one_leaves_no_file(tmp_path: Path) -> None:
    AnswerFile(tmp_path / "x").close()
    assert not (tmp_path / "x").exists()


def batch(folder: Folder, lines: int) -> BatchRecord:
    folder.prepare()
    content = [
        json.dumps(
            {"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": {"model": "m", "n": n}}
        )
        for n in range(lines)
    ]
    folder.file("file-in").write_text("\n".join(content))
    folder.keep_input("batch_1", "file-in")
    return BatchRecord(
        id="batch_1",
        owner=Owner("acme"),
        endpoint=CHAT,
        input_file_id="file-in",
        completion_window="24h",
        created_s=0,
        expires_s=86_400,
        output_id="file-out",
        error_id="file-err",
    )


def taken(run: BatchRun, most: int) -> list[Line]:
    found: list[Line] = []
    while len(found) < most:
        if run.wants_ahead:
            run.read_ahead()
        line = run.next(0.0)
        if line is None:
            break
        found.append(line)
    return found


def done(run: BatchRun, line: Line, *, succeeded: bool = True) -> None:
    run.answered(line, Answered(answer(line.custom_id), succeeded=succeeded))


def test_a_run_goes_on_where_the_last_one_died(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    record = batch(folder, 200)
    run = BatchRun(folder, record, LIMITS)
    lines = taken(run, 150)
    for line in lines[:100]:
        done(run, line, succeeded=line.number % 10 > 0)
    run.write(run.take_unwritten())
    assert run.counts == Counts(200, 90, 10)
    for line in lines[100:120]:
        done(run, line)  # never written: it dies here

    again = BatchRun(folder, record, LIMITS)
    assert again.counts == Counts(200, 90, 10)
    rest = taken(again, 1_000)
    assert sorted(line.number for line in rest) == list(range(100, 200))
    for line in rest:
        done(again, line)
    again.write(again.take_unwritten())
    assert again.is_done
    again.close()
    ids = [
        json.loads(one)["custom_id"]
        for name in ("file-out", "file-err")
        for one in folder.file(name).read_bytes().splitlines()
    ]
    assert sorted(ids) == sorted(f"r{n}" for n in range(200))


def test_what_is_given_up_gets_an_error_line(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    run = BatchRun(folder, batch(folder, 70), LIMITS)
    lines = taken(run, 66)
    done(run, lines[0])
    for line in lines[1:]:
        run.again(line, 5.0)
    run.write(run.take_unwritten())
    run.give_up(CANCELLED)
    run.close()
    shown = [json.loads(one) for one in folder.file("file-err").read_bytes().splitlines()]
    assert sorted(one["custom_id"] for one in shown) == sorted(f"r{n}" for n in range(1, 70))
    assert {one["error"]["code"] for one in shown} == {"batch_cancelled"}


def test_a_line_is_sent_again_when_it_is_due_and_answered_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    run = BatchRun(folder, batch(folder, 1), LIMITS)
    (line,) = taken(run, 5)
    run.again(line, 10.0)
    assert run.next(9.9) is None
    assert run.next_due_s == 10.0
    assert run.next(10.0) is line
    done(run, line)
    done(run, line)
    run.write(run.take_unwritten())
    assert run.counts == Counts(1, 1, 0)


def test_an_input_that_was_changed_is_not_sent(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    run = BatchRun(folder, batch(folder, 3), LIMITS)
    content = folder.input("batch_1").read_bytes()
    folder.input("batch_1").write_bytes(content.replace(b"r1", b"r9"))
    with pytest.raises(BrokenInput):
        run.read_ahead()
