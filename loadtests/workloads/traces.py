"""Recorded traffic: Mooncake's JSON lines with block ids, Azure's CSV with lengths only."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import orjson

from loadtests.workloads.prompts import Segment
from loadtests.workloads.sessions import Ask, Session, Turn

MOONCAKE_BLOCK_TOKENS = 512


class TraceError(ValueError):
    """A trace cannot be read; the message says which file, which line, and what would be right."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of a trace."""

    at_s: float
    """Seconds since the first request."""
    prompt: tuple[Segment, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests as they were recorded, each a session of its own. The ids in a trace show where
    prompts agree, but not which requests belong to one conversation. No request declares a bound,
    because a trace does not contain it."""

    name: str
    requests: tuple[Recorded, ...]

    def session(self, index: int) -> Session:
        """The request number ``index``; raises IndexError beyond the last."""
        recorded = self.requests[index]
        ask = Ask(recorded.prompt, recorded.output_tokens, max_tokens=None)
        return Session(f"{self.name}/{index}", (), (Turn((ask,)),))

    def times(self, *, speed: float = 1.0) -> Iterator[float]:
        """The times at which the requests came, in seconds, ``speed`` times as fast as recorded."""
        if speed <= 0:
            raise ValueError(f"speed must be more than 0, got {speed:g}")
        return (recorded.at_s / speed for recorded in self.requests)

    def jittered(self, seed: int) -> Trace:
        """The same requests at other times: each recorded instant moves by up to half of the gap
        before and after it, and requests of one instant change their order. Bursts stay bursts.
        This is all that a seed can change: prompts and answers are what was recorded."""
        rng = random.Random(f"{self.name}/{seed}")
        instants = [
            list(group) for _, group in itertools.groupby(self.requests, lambda each: each.at_s)
        ]
        moved: list[Recorded] = []
        for index, group in enumerate(instants):
            at_s = group[0].at_s
            before_s = instants[index - 1][0].at_s if index else at_s
            after_s = instants[index + 1][0].at_s if index + 1 < len(instants) else at_s
            new_s = rng.uniform((before_s + at_s) / 2, (at_s + after_s) / 2)
            rng.shuffle(group)
            moved += (replace(each, at_s=new_s) for each in group)
        return Trace(self.name, tuple(moved))


def read_mooncake(path: Path, *, limit: int | None = None) -> Trace:
    """Mooncake's trace (FAST'25 release): in each line a JSON object with ``timestamp`` (ms),
    ``input_length`` and ``output_length`` (tokens) and ``hash_ids``, one per 512-token block of the
    prompt. Equal ids mean equal blocks after equal prefixes. Raises TraceError."""
    rows: list[Recorded] = []
    known: dict[tuple[int, int], Segment] = {}
    first_ms = 0.0
    for number, line in enumerate(_lines(path), 1):
        if limit is not None and len(rows) >= limit:
            break
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            at_ms, ids = float(row["timestamp"]), list(map(int, row["hash_ids"]))
            tokens, output_tokens = int(row["input_length"]), int(row["output_length"])
        except (ValueError, KeyError, TypeError) as error:
            raise TraceError(
                f"{path}, line {number}: not a request of Mooncake's format, which has timestamp,"
                f" input_length, output_length and hash_ids ({type(error).__name__}: {error})"
            ) from error
        full, rest = divmod(tokens, MOONCAKE_BLOCK_TOKENS)
        if len(ids) != full + bool(rest):
            raise TraceError(
                f"{path}, line {number}: {tokens} tokens are {full + bool(rest)} blocks of"
                f" {MOONCAKE_BLOCK_TOKENS}, but hash_ids has {len(ids)}"
            )
        if not rows:
            first_ms = at_ms
        sizes = [MOONCAKE_BLOCK_TOKENS] * full + [rest] * bool(rest)
        # Equal blocks are one object: a long trace repeats them hundreds of thousands of times.
        prompt = tuple(
            known.setdefault((block, size), Segment(f"mooncake/{block}", size))
            for block, size in zip(ids, sizes, strict=True)
        )
        rows.append(Recorded((at_ms - first_ms) / 1000.0, prompt, max(1, output_tokens)))
    return _trace("mooncake", path, rows)


def read_azure(path: Path, *, limit: int | None = None) -> Trace:
    """Azure's LLM inference trace (2023): a CSV with TIMESTAMP, ContextTokens and GeneratedTokens.
    It does not contain prefixes, so no two prompts share one. Raises TraceError."""
    rows: list[Recorded] = []
    begin: datetime | None = None
    table = csv.DictReader(line.decode("utf-8-sig", "replace") for line in _lines(path))
    for row in table:
        if limit is not None and len(rows) >= limit:
            break
        try:
            # Seconds have seven digits; Python takes six.
            at = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26])
            tokens, output_tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(
                f"{path}, line {table.line_num}: not a request of Azure's format, which has"
                f" TIMESTAMP, ContextTokens and GeneratedTokens ({type(error).__name__}: {error})"
            ) from error
        begin = begin or at
        prompt = (Segment(f"azure/{len(rows)}", max(1, tokens)),)
        rows.append(Recorded((at - begin).total_seconds(), prompt, max(1, output_tokens)))
    return _trace("azure", path, rows)


def read_trace(path: Path, *, limit: int | None = None) -> Trace:
    """A trace by the ending of its name: ``.jsonl`` is Mooncake's, ``.csv`` Azure's."""
    if path.suffix == ".jsonl":
        return read_mooncake(path, limit=limit)
    if path.suffix == ".csv":
        return read_azure(path, limit=limit)
    raise TraceError(f"{path}: a trace is Mooncake's .jsonl or Azure's .csv")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise TraceError(f"the trace {path} cannot be read: {error.strerror}") from error


def _trace(name: str, path: Path, rows: list[Recorded]) -> Trace:
    if not rows:
        raise TraceError(f"{path}: no request in it")
    if any(after.at_s < before.at_s for before, after in itertools.pairwise(rows)):
        rows.sort(key=lambda recorded: recorded.at_s)
    return Trace(name, tuple(rows))
