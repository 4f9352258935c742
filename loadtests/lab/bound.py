"""How many requests any routing could have answered in time: an upper bound, by a fluid argument.

Every good answer takes at least so many seconds of some engine: the arithmetic of its tokens and
the reading of its context, and its part of a step's fixed cost in the largest batch that keeps the
SLO. What anybody has asked before is in every cache, nothing is evicted, work is split without
loss, and the future is known. The engines have a number of seconds; the cheapest requests are
served first. No placement does better, so what a policy lacks to the bound is its head room at the
most. The bound is far above what can be reached where answers are long (their work may be done
after the window) and under loads that come in bursts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from loadtests.lab.outcome import Outcome, Served
from loadtests.lab.setting import Setting
from loadtests.lab.summary import Slo, Window
from loadtests.sim.model.step_time import StepTime, Work

_TOKENS = 8192
"""Of a prefill step that is long enough to have the speed of the longest."""


def goodput_bound(outcome: Outcome, window: Window, slo: Slo, setting: Setting) -> float | None:
    """Good answers per second to requests that arrived in the window, at the most; None when it is
    not known what could have been cached."""
    arrived = [served for served in outcome.served if window.holds(served.arrival_s)]
    if not arrived or any(served.repeated_tokens is None for served in arrived):
        return None
    costs = _Costs(setting, slo)
    feasible = [served for served in arrived if costs.prefill_s(served) <= slo.ttft_s]
    if not feasible:
        return 0.0
    last_s = slo.ttft_s + max(served.output_tokens for served in feasible) * slo.tpot_s
    capacity_s = (window.span_s + last_s) * setting.replicas
    by_arithmetic = _most([costs.arithmetic_s(served) for served in feasible], capacity_s)
    by_steps = _most([costs.steps_s(served) for served in feasible], capacity_s)
    return min(by_arithmetic, by_steps) / window.span_s


def _most(costs_s: Sequence[float], capacity_s: float) -> int:
    return sum(total_s <= capacity_s for total_s in accumulate(sorted(costs_s)))


class _Costs:
    """The least seconds of an engine that a request takes. Arithmetic and the reading of weights
    overlap in a step, so each counts alone."""

    def __init__(self, setting: Setting, slo: Slo) -> None:
        self._time = StepTime(setting.profile)
        self._slo = slo
        self._limits = setting.limits
        speed = 1.0
        if setting.troubles.slow_share:
            speed = max(speed, setting.troubles.slow_speed)
        self._each_s = self._time.step_s(Work(_TOKENS)) / _TOKENS / speed
        self._speed = speed

    def prefill_s(self, served: Served) -> float:
        """Of the part of the prompt that nobody has asked before."""
        known = min(served.repeated_tokens or 0, served.input_tokens - 1)
        fresh = served.input_tokens - known
        pairs = fresh * (known + fresh / 2)
        bare_s = self._time.step_s(Work(_TOKENS))
        pairs_s = self._time.step_s(Work(_TOKENS, pairs)) - bare_s
        return fresh * self._each_s + pairs_s / self._speed

    def arithmetic_s(self, served: Served) -> float:
        """Of all tokens, and the reading of the context in each step."""
        tokens = max(0, served.output_tokens - 1)
        context = served.input_tokens + tokens / 2
        reading_s = self._time.reading_s(self._limits.max_num_seqs) * context
        return self.prefill_s(served) + tokens * (self._each_s + reading_s) / self._speed

    def steps_s(self, served: Served) -> float:
        """Its part of decode steps in the largest batch of its like that keeps the SLO."""
        tokens = max(0, served.output_tokens - 1)
        context = round(served.input_tokens + tokens / 2)
        held = self._limits.num_blocks * self._limits.block_size_tokens
        low, high = 1, max(1, min(self._limits.max_num_seqs, held // max(1, context)))
        while low < high:
            middle = (low + high + 1) // 2
            if self._time.decode_s(middle, middle * context) / self._speed <= self._slo.tpot_s:
                low = middle
            else:
                high = middle - 1
        return tokens * self._time.decode_s(low, low * context) / low / self._speed
