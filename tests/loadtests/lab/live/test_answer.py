"""Answers as they stream in."""

import pytest

from loadtests.lab.live.answer import AnswerUsage, StreamedAnswer, said

CHAT = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":" two"},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
    b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_an_answer_is_the_same_wherever_it_is_cut(piece_bytes: int, end: bytes) -> None:
    data, answer = CHAT.replace(b"\n", end), StreamedAnswer()
    for start in range(0, len(data), piece_bytes):
        answer.feed(data[start : start + piece_bytes], float(start))
    assert answer.problem == ""
    assert (answer.text, answer.token_events) == ("one two", 2)
    assert answer.usage == AnswerUsage(9, 2, 4)


def test_the_first_token_is_the_first_text_and_the_last_is_not_the_end_of_the_stream() -> None:
    answer = StreamedAnswer()
    for second, event in enumerate(CHAT.split(b"\n\n")):
        answer.feed(event + b"\n\n", float(second))
    assert (answer.first_token_at, answer.last_token_at) == (1.0, 2.0)


def test_completions_have_their_text_elsewhere() -> None:
    answer = StreamedAnswer()
    answer.feed(b'data: {"choices":[{"index":0,"text":"hello"}],"usage":null}\n\n', 3.0)
    assert (answer.text, answer.first_token_at, answer.usage) == ("hello", 3.0, None)
    assert answer.problem == "the stream broke off"


def test_tokens_without_text_count_for_the_time_of_the_last() -> None:
    answer = StreamedAnswer()
    answer.feed(b'data: {"choices":[{"index":0,"delta":{"content":"end"}}]}\n\n', 1.0)
    for at in (2.0, 3.0):  # after the end of the text, with ignore_eos
        answer.feed(b'data: {"choices":[{"index":0,"delta":{"content":""}}]}\n\n', at)
    answer.feed(
        b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"length"}]}\n\n', 4.0
    )
    assert (answer.first_token_at, answer.last_token_at, answer.token_events) == (1.0, 4.0, 1)


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_thoughts_are_tokens_but_not_what_the_next_turn_repeats(key: str) -> None:
    answer = StreamedAnswer()
    answer.feed(b'data: {"choices":[{"index":0,"delta":{"%s":"hm"}}]}\n\n' % key.encode(), 1.0)
    answer.feed(b'data: {"choices":[{"index":0,"delta":{"content":"yes"}}]}\n\n', 2.0)
    assert (answer.text, answer.first_token_at, answer.token_events) == ("yes", 1.0, 2)


@pytest.mark.parametrize("event", [b"[]", b"null", b'{"choices":{}}', b'{"choices":[null,{}]}'])
def test_odd_events_are_passed_over(event: bytes) -> None:
    answer = StreamedAnswer()
    answer.feed(b": ping\n\ndata: " + event + b"\n\ndata: [DONE]\n\n", 0.0)
    assert (answer.problem, answer.token_events) == ("", 0)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"too  long","code":400}}', "too long"),
        (b'{"object":"error","message":"too long"}', "too long"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":1}]}', '{"detail":[{"loc":1}]}'),
        (b"no healthy upstream", "no healthy upstream"),
        (b"x" * 1000, "x" * 200),
    ],
)
def test_what_a_server_says_of_an_error_is_found(body: bytes, text: str) -> None:
    assert said(body) == text


@pytest.mark.parametrize("event", [b'{"error":{"message":"engine died","code":500}}', b"{broken"])
def test_an_error_in_the_stream_is_none_the_less_one(event: bytes) -> None:
    answer = StreamedAnswer()
    answer.feed(b"data: " + event + b"\n\ndata: [DONE]\n\n", 0.0)
    assert answer.finished
    assert "event" in answer.problem


def test_engines_that_do_not_tell_cached_tokens_are_not_taken_to_have_none() -> None:
    answer = StreamedAnswer()
    answer.feed(
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,'
        b'"prompt_tokens_details":null}}\n\n',
        0.0,
    )
    assert answer.usage == AnswerUsage(9, 2, None)
