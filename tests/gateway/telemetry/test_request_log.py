"""The request log, as somebody reading the file sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.telemetry.request_log import RequestLog
from picker.request.labels import RequestLabels
from picker.seams.observer import Answered, Completed, Rejected

NOON_S = 1_800_000_000.125


def _log(path: Path) -> RequestLog:
    return RequestLog(path, wall_clock=lambda: NOON_S)


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_the_picker_answers_leaves_a_line(
    tmp_path: Path, rejected: Callable[..., Rejected]
) -> None:
    path = tmp_path / "requests.log"
    log = _log(path)
    log.answered(Answered(rejected().labels, 200, 0.001))
    log.close()
    (line,) = _lines(path)
    assert (line["status"], line["reason"], line["tenant"]) == (200, "ok", "acme")


def test_one_json_line_for_each_request(
    tmp_path: Path, completed: Callable[..., Completed], rejected: Callable[..., Rejected]
) -> None:
    path = tmp_path / "requests.log"
    log = _log(path)
    log.completed(completed())
    log.rejected(rejected())
    log.close()
    served, refused = _lines(path)
    assert served == {
        "time": "2027-01-15T08:00:00.125000Z",
        "request_id": "id-1",
        "tenant": "acme",
        "key": "k1",
        "user": "ann",
        "path": "/v1/chat/completions",
        "model": "llama",
        "pool": "main",
        "endpoint": "10.0.0.1:8000",
        "status": 200,
        "reason": "ok",
        "streaming": True,
        "input_tokens": 100,
        "output_tokens": 11,
        "cached_tokens": 64,
        "usage_reported": True,
        "ttft_ms": 250.0,
        "duration_ms": 1250.0,
        "queue_ms": 0.0,
        "decision_ms": 0.4,
    }
    assert (refused["status"], refused["reason"]) == (404, "model_not_found")


def test_much_flushes_itself(tmp_path: Path, completed: Callable[..., Completed]) -> None:
    path = tmp_path / "requests.log"
    log = _log(path)
    log.completed(completed())  # at once: nothing was written for a while
    for _ in range(1000):
        log.completed(completed())
    log.close()
    assert len(_lines(path)) == 1001
    assert log.dropped_lines == 0


def test_a_file_that_is_moved_away_is_opened_anew(
    tmp_path: Path, completed: Callable[..., Completed]
) -> None:
    path, moved = tmp_path / "requests.log", tmp_path / "requests.log.1"
    log = _log(path)
    log.completed(completed())
    log.flush()
    while not path.stat().st_size:
        pass
    path.rename(moved)
    log.completed(completed())
    log.close()
    assert len(_lines(moved)) == len(_lines(path)) == 1


def test_what_a_client_sends_cannot_break_a_line(
    tmp_path: Path, completed: Callable[..., Completed]
) -> None:
    path = tmp_path / "requests.log"
    log = _log(path)
    for name in ('two\nlines"', "bad\udcff"):
        labels = RequestLabels("id", "", name, "main", "/")
        log.completed(completed(labels=labels))
    log.close()
    assert [line["model"] for line in _lines(path)] == ['two\nlines"', "bad?"]


def test_a_stuck_reader_costs_lines_not_time(
    tmp_path: Path, completed: Callable[..., Completed], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # and nobody reads
    log = _log(path)
    for _ in range(200):
        log.completed(completed())
        log.flush()
    while log.dropped_lines == 0:
        log.completed(completed())
        log.flush()
    assert "disk is too slow" in caplog.text
    drain = threading.Thread(target=lambda: _drain(reader))
    drain.start()
    log.close()
    drain.join()


def _drain(reader: int) -> None:
    os.set_blocking(reader, True)
    while os.read(reader, 1 << 16):
        pass
    os.close(reader)


def test_a_disk_error_is_counted_and_told_once(
    completed: Callable[..., Completed], caplog: pytest.LogCaptureFixture
) -> None:
    log = _log(Path("/dev/full"))
    for _ in range(3):
        log.completed(completed())
        log.flush()
    log.close()
    assert log.dropped_lines == 3
    assert caplog.text.count("cannot write /dev/full") == 1


def test_workers_on_one_pipe_do_not_mix_lines() -> None:
    worker = """
import sys
from gateway.telemetry.request_log import RequestLog
from picker.seams.observer import Rejected
from picker.request.labels import RequestLabels
log = RequestLog(None)
labels = RequestLabels(sys.argv[1] * 36, "tenant", "model", "pool", "/v1/chat/completions")
for _ in range(3000):
    log.rejected(Rejected(labels, 429, "overloaded", 0.001))
log.close(30)
"""
    read, write = os.pipe()
    workers = [
        subprocess.Popen([sys.executable, "-c", worker, name], stdout=write) for name in "ab"
    ]
    os.close(write)
    with os.fdopen(read) as lines:
        ids = [json.loads(line)["request_id"] for line in lines]
    assert [each.wait() for each in workers] == [0, 0]
    assert sorted(set(ids)) == ["a" * 36, "b" * 36]
    assert len(ids) == 6000
