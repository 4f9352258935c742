"""What an answer to a line means."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from gateway.batches.outcome import (
    EXPIRED,
    Again,
    Answered,
    Because,
    not_answered,
    outcome_of,
    refused,
)
from gateway.batches.records import Used


def error(code: str | None) -> bytes:
    return json.dumps(
        {"error": {"message": "no", "type": "t", "param": None, "code": code}}
    ).encode()


def test_an_answer_stands_in_the_output_as_it_came() -> None:
    body = b'{"id":"x", "n":1.10,"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    found = outcome_of('a"\n', 200, {"x-request-id": "r-1"}, body)
    assert isinstance(found, Answered)
    assert found.succeeded
    assert found.line.count(b"\n") == 1
    assert body in found.line
    shown = json.loads(found.line)
    assert shown["custom_id"] == 'a"\n'
    assert shown["response"]["status_code"] == 200
    assert shown["response"]["request_id"] == "r-1"
    assert shown["error"] is None
    assert shown["id"].startswith("batch_req_")
    assert found.used == Used(input_tokens=3, output_tokens=4)


def test_an_answer_with_line_breaks_is_one_line() -> None:
    found = outcome_of("a", 200, {}, b'{\n "id": "x"\r\n}\n')
    assert isinstance(found, Answered)
    assert found.line.count(b"\n") == 1
    assert json.loads(found.line)["response"]["body"] == {"id": "x"}


@pytest.mark.parametrize(
    "usage",
    [
        {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
        {
            "input_tokens": 5,
            "output_tokens": 7,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens_details": {"reasoning_tokens": 1},
        },
    ],
)
def test_usage_is_read_in_both_spellings(usage: Mapping[str, object]) -> None:
    found = outcome_of("a", 200, {}, json.dumps({"usage": usage}).encode())
    assert isinstance(found, Answered)
    assert found.used == Used(5, 2, 7, 1)


@pytest.mark.parametrize(
    ("status", "code", "headers", "because"),
    [
        (429, "overloaded", {"retry-after": "1"}, Because.SATURATED),
        (429, "queue_full", {}, Because.SATURATED),
        (429, None, {}, Because.SATURATED),
        (429, "rate_limit_exceeded", {"retry-after": "7"}, Because.LIMITED),
        (429, "insufficient_quota", {"retry-after": "9000"}, Because.LIMITED),
        (503, "no_endpoints", {}, Because.DOWN),
        (503, "shutting_down", {}, Because.DOWN),
        (503, None, {}, Because.FAILED),
        (500, None, {}, Because.FAILED),
        (502, None, {}, Because.FAILED),
        (504, None, {}, Because.FAILED),
        (404, "model_not_found", {}, Because.FAILED),
    ],
)
def test_what_may_pass_is_tried_again(
    status: int, code: str | None, headers: Mapping[str, str], because: Because
) -> None:
    found = outcome_of("a", status, headers, error(code))
    assert isinstance(found, Again)
    assert found.because is because
    assert found.after_s == min(float(headers.get("retry-after", 0)), 60.0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_of_the_line_itself_stands_in_the_error_file(status: int) -> None:
    found = outcome_of("a", status, {}, error("x"))
    assert isinstance(found, Answered)
    assert not found.succeeded
    assert json.loads(found.line)["response"]["body"]["error"]["code"] == "x"


def test_a_limit_that_no_wait_can_meet_is_final() -> None:
    found = outcome_of("a", 429, {"x-should-retry": "false"}, error("rate_limit_exceeded"))
    assert isinstance(found, Answered)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]"])
def test_what_is_no_answer_is_no_success(body: bytes) -> None:
    assert isinstance(outcome_of("a", 200, {}, body), Again)
    found = outcome_of("a", 400, {}, body)
    assert isinstance(found, Answered)
    assert "message" in json.loads(found.line)["response"]["body"]["error"]


def test_lines_without_an_answer() -> None:
    shown = json.loads(not_answered("a", EXPIRED))
    assert shown["response"] is None
    assert shown["error"]["code"] == "batch_expired"
    assert json.loads(refused("a", "no", "stream").line)["response"]["status_code"] == 400
