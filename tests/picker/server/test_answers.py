"""The usage of a long JSON answer on the standard port, read as it passes in pieces."""

from __future__ import annotations

import orjson
import pytest

from picker.server.answers import AnswerFollower
from picker.server.response import ResponseReader
from picker.server.usage import ReportedUsage
from tests.picker.server.usages import CASES, OPENAI

LONG = "x" * 300_000


def read(pieces: list[bytes]) -> dict[str, int]:
    usage = ReportedUsage()

    def take(key: str, text: bytes) -> None:
        usage.take({key: orjson.loads(text)})

    follower = AnswerFollower(take)
    for piece in pieces:
        follower.feed(piece)
    return counts_of(usage)


def counts_of(usage: ReportedUsage) -> dict[str, int]:
    counts = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cached": usage.cached_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    return {key: count for key, count in counts.items() if count is not None}


@pytest.mark.parametrize(("document", "counts"), CASES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("spaced", [False, True])
def test_at_every_cut(document: object, counts: dict[str, int], spaced: bool) -> None:
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if spaced else 0)
    assert read([text]) == counts
    for cut in range(1, len(text)):
        assert read([text[:cut], text[cut:]]) == counts, cut
    for size in (1, 2, 3, 7):
        assert read([text[at : at + size] for at in range(0, len(text), size)]) == counts


@pytest.mark.parametrize("rename", [None, ("m", "alias")])
def test_a_long_answer_reports_its_usage_and_is_not_held(rename: tuple[str, str] | None) -> None:
    reader = ResponseReader({"content-type": "application/json"}, rename=rename, strip_usage=False)
    text = orjson.dumps({"data": [LONG, [0.25] * 9_000, {"usage": None}], "usage": OPENAI})
    pieces = [text[at : at + 50_000] for at in range(0, len(text), 50_000)]
    out = [reader.feed(piece, end=piece is pieces[-1]) for piece in pieces]
    assert b"".join(out) == text
    assert len(reader._held) == 0
    assert counts_of(reader.usage) == {"input": 70, "output": 20, "cached": 64, "reasoning": 7}


@pytest.mark.parametrize(
    "text", [b"", b"{", b"]]]}}}", b'{"usage":{"prompt_tokens":', b'"\\', b"\xff\xfe", b"[" * 5000]
)
def test_what_is_no_json_reports_nothing(text: bytes) -> None:
    assert read([text, text]) == {}
