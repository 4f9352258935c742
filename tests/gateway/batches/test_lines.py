"""What is wrong with an input file, and where its lines are."""

from __future__ import annotations

import io
import json

import pytest

from gateway.batches.lines import MOST_ERRORS, Index, Limits, digest, index, read_line
from gateway.batches.records import LineError

CHAT = "/v1/chat/completions"
LIMITS = Limits(100, 1_000)


def line(custom_id: object = "a", **changed: object) -> bytes:
    whole = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"model": "m"}}
    whole.update(changed)
    return json.dumps({key: value for key, value in whole.items() if value != "-"}).encode()


def read(*lines: bytes, limits: Limits = LIMITS, end: bytes = b"\n") -> Index:
    return index(io.BytesIO(b"\n".join(lines) + end), CHAT, limits)


def errors(*lines: bytes, limits: Limits = LIMITS) -> list[tuple[str, int | None]]:
    return [(one.code, one.line) for one in read(*lines, limits=limits).errors]


def test_a_sound_file_is_an_index_of_its_lines() -> None:
    content = [line("a"), b"", line("b"), b"  ", line("é")]
    found = read(*content, end=b"")
    assert (found.total, found.errors, found.model) == (3, [], "m")
    whole = b"\n".join(content)
    places = zip(found.starts, found.sizes, strict=True)
    lines = [read_line(whole[at : at + size], n) for n, (at, size) in enumerate(places)]
    assert [one.custom_id for one in lines] == ["a", "b", "é"]
    assert lines[0].body == b'{"model": "m"}'
    assert list(found.ids) == [digest(one.custom_id) for one in lines]


def test_a_mark_and_line_ends_of_windows_are_no_part_of_a_line() -> None:
    found = read(b"\xef\xbb\xbf" + line("a") + b"\r", line("b") + b"\r")
    assert (found.total, found.errors) == (2, [])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (b"\xff\xfe", "invalid_json_line"),
        (line(url="-"), "missing_required_parameter"),
        (line("-"), "missing_required_parameter"),
        (line(body="-"), "missing_required_parameter"),
        (line(method="-"), "missing_required_parameter"),
        (line(other=1), "unknown_parameter"),
        (line(""), "invalid_value"),
        (line(7), "invalid_value"),
        (line("x" * 513), "invalid_value"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/embeddings"), "url_mismatch"),
        (line(url=["/v1"]), "url_mismatch"),
        (line(body=[]), "invalid_value"),
        (line(body={"model": 1}), "invalid_value"),
        (line("c", body={"model": "other"}), "model_mismatch"),
        (line("c", body={}), "model_mismatch"),
        (line("first"), "duplicate_custom_id"),
        (line("x" * 400, body={"model": "m", "prompt": "y" * 700}), "line_too_long"),
    ],
)
def test_a_bad_line_is_named_with_its_number(bad: bytes, code: str) -> None:
    assert errors(line("first"), b"", bad, line("last")) == [(code, 3)]


def test_a_line_may_have_as_many_bytes_as_allowed() -> None:
    exact = line("a")
    assert errors(exact, limits=Limits(9, len(exact))) == []
    assert errors(exact, limits=Limits(9, len(exact) - 1)) == [("line_too_long", 1)]
    long = line("a", body={"model": "m", "x": "y" * 5_000})
    assert errors(long, line("b"), limits=Limits(9, 100)) == [("line_too_long", 1)]


def test_an_empty_file_and_one_with_too_many_lines() -> None:
    assert errors() == [("empty_file", None)]
    assert errors(b"", b" ") == [("empty_file", None)]
    assert errors(line("a"), line("b"), line("c"), limits=Limits(2, 1_000)) == [
        ("too_many_tasks", 3)
    ]


def test_errors_are_bounded() -> None:
    assert len(read(*[b"{"] * 500, limits=Limits(1_000, 1_000)).errors) == MOST_ERRORS


def test_errors_have_the_shape_of_the_api() -> None:
    shown = LineError("invalid_json_line", "This line ...", 3).as_json()
    assert shown == {
        "code": "invalid_json_line",
        "message": "This line ...",
        "param": None,
        "line": 3,
    }
