"""Measures what a server's steps cost: which requests are sent, and what their times show.

Three things are measured, on a server that does nothing else:
- prefill: a single prompt's time to first token, by its length;
- decode: the time of a step of equal sequences, by their number and their context, while all of
  them run;
- mixed: the longest gap in a single stream while a short prompt arrives. This is a step with
  prefill, without the cost of HTTP.

No two prompts begin alike, so that nothing is found in the prefix cache. The requests are sent by
a `ProbeTarget`: an HTTP client, or an engine in virtual time.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Protocol

_PREFILLS = tuple(64 * 2**step for step in range(12))
_PREFILL_REPEATS = 3
_CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHORT, _LONG = 32, 2048
"""Lengths of the prompts of decoding sequences."""
_SEND_S = 0.004
"""Longest time that a client and a server are assumed to need for one more request."""
_STEADY_STEPS = 64
_LEAST_STEPS = 16
_FASTEST_S = 1e-4
"""Faster steps came together: the client was too slow to read each by itself."""
_MIXED = (32, 256, 1024)
_MIXED_REPEATS = 6
_LONGEST_STREAM = 1500
_PASSES = 4
_FEW_ERROR = 0.05
"""Relative error of a single value."""
_LEAST_ERROR = 0.01
"""Relative; repeats may agree by chance, so no error is smaller than this."""


class ProbeError(ValueError):
    """A server that cannot be probed; the message says what it answered, or what is missing."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """A request. Its prompt begins like no other; the answer has exactly ``output_tokens``
    tokens."""

    prompt_tokens: int
    output_tokens: int
    after_s: float = 0.0
    """When it is sent, after the beginning of its group."""


@dataclass(slots=True)
class ProbeAnswer:
    """The answer to one request; all answers of a group have one clock."""

    sent_s: float
    prompt_tokens: int
    """As the server counts them: about as many as were asked for."""
    token_s: list[float] = field(default_factory=list)
    """When each token was seen."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says about itself."""

    model: str
    """The model name for requests."""
    root: str
    """What it serves under that name: a path, or a name on Hugging Face."""
    max_model_len: int
    num_blocks: int
    """Usable blocks."""
    block_size_tokens: int
    gpu_memory_utilization: float | None = None

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.num_blocks * self.block_size_tokens


class ProbeTarget(Protocol):
    """A server that can be probed."""

    async def facts(self) -> Facts:
        """What it says about itself. Raises ProbeError."""

    async def group(self, asks: Sequence[ProbeRequest]) -> list[ProbeAnswer]:
        """Send these requests, and return when all are answered. Raises ProbeError."""

    def now_s(self) -> float:
        """Time of the clock that bounds the probe."""


class PointKind(enum.Enum):
    """What was measured."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class ProbePoint:
    """One measurement. ``value_s``: see the module; tokens are those of one sequence."""

    kind: PointKind
    value_s: float
    error: float
    """Relative error of the value: how well it repeats."""
    prompt_tokens: int
    sequences: int = 1
    """Number of sequences that decode."""
    context_tokens: float = 0.0
    """Context of a decoding sequence, in the middle of the measurement."""

    @property
    def label(self) -> str:
        """A name for people."""
        if self.kind is PointKind.PREFILL:
            return f"TTFT of a prompt of {self.prompt_tokens:,} tokens"
        if self.kind is PointKind.DECODE:
            return f"step of {self.sequences} at {self.context_tokens:,.0f} tokens of context"
        return f"step with a prompt of {self.prompt_tokens:,} tokens in it"


async def probe(
    target: ProbeTarget,
    facts: Facts,
    *,
    seconds: float = 60.0,
    report: Callable[[ProbePoint], None] = lambda point: None,
) -> list[ProbePoint]:
    """Measure for about ``seconds`` by the target's clock; all is repeated while time lasts.

    A few points of each kind are measured in any case. Raises ProbeError.
    """
    # First uses (of kernels, buffers, connections) are not part of the measurement.
    for ask in (
        ProbeRequest(64, 16),
        ProbeRequest(min(1024, facts.max_model_len // 2), 4),
        ProbeRequest(64, 16),
    ):
        await target.group([ask])
    seen: dict[_Key, list[ProbePoint]] = {}

    def note(asked_tokens: int, point: ProbePoint | None) -> bool:
        if point is None:
            return False
        again = seen.setdefault((point.kind, asked_tokens, point.sequences), [])
        again.append(point)
        if len(again) == 1:
            report(point)
        return True

    end_s = target.now_s() + seconds
    for _ in range(_PASSES):
        begin_s = target.now_s()
        left_s = end_s - begin_s
        await _prefills(target, facts, note, begin_s + 0.4 * left_s)
        await _decodes(target, facts, note, begin_s + 0.75 * left_s)
        await _mixed(target, facts, [each[0] for each in seen.values()], note, end_s)
        if target.now_s() + 1.2 * (target.now_s() - begin_s) > end_s:
            break
    return [_together(each) for each in seen.values()]


_Key = tuple[PointKind, int, int]
Note = Callable[[int, ProbePoint | None], bool]
"""Takes the number of tokens asked for and the measurement; returns whether there was one."""


async def _prefills(target: ProbeTarget, facts: Facts, note: Note, until_s: float) -> None:
    longest = int(min(facts.max_model_len, facts.kv_tokens) * 0.9)
    for tokens in _PREFILLS:
        if tokens > longest:
            return
        begin_s = target.now_s()
        answers = [
            (await target.group([ProbeRequest(tokens, 1)]))[0] for _ in range(_PREFILL_REPEATS)
        ]
        times_s = [answer.token_s[0] - answer.sent_s for answer in answers]
        counted = round(fmean(answer.prompt_tokens for answer in answers))
        note(tokens, ProbePoint(PointKind.PREFILL, median(times_s), _error(times_s), counted))
        spent_s = target.now_s() - begin_s
        if target.now_s() + 2.5 * spent_s > until_s:
            return


async def _decodes(target: ProbeTarget, facts: Facts, note: Note, until_s: float) -> None:
    for prompt_tokens in (_SHORT, _LONG):
        step_s = _SEND_S
        for sequences in _CONCURRENCIES:
            # The last sequence begins after as many steps as it takes to send them all.
            outputs = _STEADY_STEPS + 4 + int(sequences * _SEND_S / step_s)
            held = prompt_tokens + outputs
            if held > 0.9 * facts.max_model_len or sequences * held > 0.9 * facts.kv_tokens:
                break
            begin_s = target.now_s()
            answers = await target.group([ProbeRequest(prompt_tokens, outputs)] * sequences)
            point = _decode_point(answers)
            if not note(prompt_tokens, point):
                break  # they do not all run at the same time: the batch is full
            assert point is not None
            step_s = point.value_s
            spent_s = target.now_s() - begin_s
            share = 0.5 if prompt_tokens == _SHORT else 1.0
            left_s = until_s - target.now_s()
            if sequences > 1 and 2.2 * spent_s > left_s * share:
                break


def _decode_point(answers: Sequence[ProbeAnswer]) -> ProbePoint | None:
    """The mean time of the steps that all sequences had a part in."""
    begin_s = max(answer.token_s[0] for answer in answers)
    end_s = min(answer.token_s[-1] for answer in answers)
    steps_s: list[float] = []
    contexts: list[float] = []
    quarters: list[float] = []
    for answer in answers:
        inside = [
            (number, at_s) for number, at_s in enumerate(answer.token_s) if begin_s <= at_s <= end_s
        ]
        if len(inside) < _LEAST_STEPS:
            return None
        (first, first_s), (last, last_s) = inside[0], inside[-1]
        steps_s.append((last_s - first_s) / (last - first))
        contexts.append(answer.prompt_tokens + (first + last) / 2)
        quarters += _quarters(inside)
    value_s = fmean(steps_s)
    if value_s < _FASTEST_S:
        return None
    error = max(stdev(quarters) / value_s / (len(quarters) / len(answers)) ** 0.5, _LEAST_ERROR)
    tokens = round(fmean(answer.prompt_tokens for answer in answers))
    return ProbePoint(PointKind.DECODE, value_s, error, tokens, len(answers), fmean(contexts))


def _quarters(inside: Sequence[tuple[int, float]]) -> Iterator[float]:
    edges = [inside[len(inside) * part // 4] for part in range(4)] + [inside[-1]]
    for (first, first_s), (last, last_s) in pairwise(edges):
        yield (last_s - first_s) / max(last - first, 1)


async def _mixed(
    target: ProbeTarget, facts: Facts, points: Sequence[ProbePoint], note: Note, until_s: float
) -> None:
    step_s = next((each.value_s for each in points if each.kind is PointKind.DECODE), None)
    prefills = {
        each.prompt_tokens: each.value_s for each in points if each.kind is PointKind.PREFILL
    }
    if step_s is None or not prefills:
        raise ProbeError("a lone answer could not be timed: the server sends its tokens together")
    for tokens in _MIXED:
        near = min(prefills, key=lambda known, wanted=tokens: abs(known - wanted))  # type: ignore[misc]
        between_s = 2.0 * prefills[near] * max(tokens / near, 1.0) + 8 * step_s
        most = min(_LONGEST_STREAM, facts.max_model_len // 2, facts.kv_tokens // 4)
        repeats = min(_MIXED_REPEATS, int((most - 24) * step_s / between_s))
        if repeats < 2 or tokens > facts.max_model_len // 2:
            return
        if target.now_s() + (repeats + 1) * between_s > until_s:
            return
        outputs = int((repeats + 1) * between_s / step_s) + 24
        first_s = prefills[min(prefills)] + 8 * step_s
        asks = [ProbeRequest(64, min(outputs, most))]
        asks += [ProbeRequest(tokens, 1, first_s + number * between_s) for number in range(repeats)]
        note(tokens, _mixed_point(await target.group(asks)))


def _mixed_point(answers: Sequence[ProbeAnswer]) -> ProbePoint | None:
    stream, *prompts = answers
    gaps: list[float] = []
    contexts: list[float] = []
    pairs = list(pairwise(stream.token_s))
    for prompt in prompts:
        seen_s = prompt.token_s[0]
        beside = [
            (late_s - early_s, number)
            for number, (early_s, late_s) in enumerate(pairs)
            if late_s > prompt.sent_s and early_s < seen_s
        ]
        if beside and seen_s < stream.token_s[-1]:
            gap_s, number = max(beside)
            gaps.append(gap_s)
            contexts.append(stream.prompt_tokens + number)
    if len(gaps) < 2:
        return None
    tokens = round(fmean(prompt.prompt_tokens for prompt in prompts))
    return ProbePoint(PointKind.MIXED, median(gaps), _error(gaps), tokens, 1, median(contexts))


def _error(values: Sequence[float]) -> float:
    middle = median(values)
    spread = median(abs(value - middle) for value in values) * 1.5 / middle
    return max(spread, _LEAST_ERROR, _FEW_ERROR / len(values))


def _together(points: Sequence[ProbePoint]) -> ProbePoint:
    """One point from those of several passes."""
    if len(points) == 1:
        return points[0]
    values = [point.value_s for point in points]
    spread = max(_error(values), fmean(point.error for point in points))
    return replace(
        points[0],
        value_s=median(values),
        error=max(spread / len(points) ** 0.5, _LEAST_ERROR),
        prompt_tokens=round(fmean(point.prompt_tokens for point in points)),
        context_tokens=fmean(point.context_tokens for point in points),
    )
