"""Traces in the formats of Mooncake and Azure."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.workloads.summary import summarize, walk
from loadtests.workloads.traces import TraceError, read_trace
from loadtests.workloads.traffic import OpenLoop

MOONCAKE = """\
{"timestamp": 3000, "input_length": 1300, "output_length": 50, "hash_ids": [0, 1, 2]}
{"timestamp": 4500, "input_length": 1024, "output_length": 7, "hash_ids": [0, 1]}
{"timestamp": 4500, "input_length": 600, "output_length": 0, "hash_ids": [0, 9]}
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:05.4799600,110,27
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_mooncake_prompts_share_the_blocks_that_the_trace_says(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "m.jsonl", MOONCAKE))
    requests = list(walk(OpenLoop(trace, trace.times())))
    assert [request.arrival_s for request in requests] == [0.0, 1.5, 1.5]
    assert [request.prompt_tokens for request in requests] == [1300, 1024, 600]
    assert [request.output_tokens for request in requests] == [50, 7, 1]
    first, second, third = (request.prompt.block_ids(512) for request in requests)
    assert first == second
    assert third == first[:1]
    # Of 2,924 tokens 1,024 and 512 repeat.
    assert summarize(iter(requests)).repeated == pytest.approx(1536 / 2924)


def test_speed_and_limit(tmp_path: Path) -> None:
    path = written(tmp_path, "m.jsonl", MOONCAKE)
    assert list(read_trace(path).times(speed=3.0)) == [0.0, 0.5, 0.5]
    assert len(read_trace(path, limit=2).requests) == 2
    with pytest.raises(ValueError, match="speed must be more than 0"):
        read_trace(path).times(speed=0)


def test_azure_prompts_share_nothing(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "a.csv", AZURE))
    requests = list(walk(OpenLoop(trace, trace.times())))
    assert [request.arrival_s for request in requests] == [0.0, 1.5]
    assert [request.prompt_tokens for request in requests] == [4808, 110]
    assert [request.output_tokens for request in requests] == [10, 27]
    assert summarize(iter(requests)).repeated == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.jsonl", '{"timestamp": 1}\n', r"m\.jsonl, line 1: not a request of Mooncake's format"),
        ("m.jsonl", "\n{\n", r"m\.jsonl, line 2: not a request of Mooncake's format"),
        (
            "m.jsonl",
            '{"timestamp":0,"input_length":600,"output_length":1,"hash_ids":[1]}',
            "line 1: 600 tokens are 2 blocks of 512, but hash_ids has 1",
        ),
        ("m.jsonl", "", "no request in it"),
        ("a.csv", "TIMESTAMP,ContextTokens\nnow,1\n", r"a\.csv, line 2: not a request of Azure's"),
        ("a.txt", "", "a trace is Mooncake's .jsonl or Azure's .csv"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(written(tmp_path, name, text))


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"gone\.jsonl cannot be read: No such file"):
        read_trace(tmp_path / "gone.jsonl")
