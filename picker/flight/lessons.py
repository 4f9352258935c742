"""What the end of a request teaches about endpoint, model and tenant."""

from __future__ import annotations

from collections.abc import Callable

from picker.flight.charge import is_metered
from picker.flight.entry import Entry
from picker.flight.judge import Judge
from picker.request.report import ENGINE_FAILED, Ending, Report
from picker.seams.own_tokens import OwnTokens
from picker.state.cache.index import Reuse
from picker.state.learned import Learned
from picker.state.pools import Pools
from policies.limits.prices import NOTHING, Usage
from policies.routing.types import Observation


class Lessons:
    """Tells the judge of endpoints, the estimates of tokens, and the policies that decided."""

    def __init__(
        self,
        pools: Pools,
        learned: Learned,
        judge: Judge,
        own_tokens: OwnTokens,
        now: Callable[[], float],
    ) -> None:
        self._pools, self._learned, self._judge, self._now = pools, learned, judge, now
        self._own_tokens = own_tokens

    def learn(
        self, entry: Entry, report: Report, usage: Usage | None, *, was_counted: bool
    ) -> None:
        """From an end that was reported. ``was_counted``: the ledger had the request until now."""
        pool, used = self._pools.get(entry.pool), report.address
        ok = report.status == 200 and report.reason not in ENGINE_FAILED
        self._judge.judge(entry, report)
        if ok and usage is not None and usage.input_tokens:
            believed = entry.matched_tokens if used == entry.choices[0] else 0.0
            reuse = Reuse(
                prompt_tokens=usage.input_tokens,
                cached_tokens=report.cached_tokens,
                output_tokens=usage.output_tokens,
                believed_tokens=believed,
                sent_s=entry.started_s,
            )
            self._pools.answered(entry.pool, used, entry.chains, reuse)
            if entry.claim is not None and report.input_tokens:
                self._own_tokens.heard(entry.claim, used, report.input_tokens)
        if report.status == 200 and usage is not None and is_metered(entry.expected):
            model = entry.served_model
            if report.input_tokens and entry.text_bytes:
                self._learned.prompt(
                    entry.labels.tenant,
                    model,
                    text_bytes=entry.text_bytes,
                    text_units=entry.text_units,
                    counted_tokens=entry.counted_tokens,
                    tokens=usage.input_tokens,
                )
            if report.reason is Ending.OK and report.output_tokens is not None:
                self._learned.answer(entry.labels.tenant, model, report.streamed_events, usage)
        if pool is None or not was_counted:
            return
        used_tokens = usage or NOTHING
        for leg, profile in zip(entry.legs, pool.profiles, strict=False):
            slot = pool.state.slot_of.get(used if leg is entry.answering else leg.address)
            if slot is None or leg.features is None or leg.role is not profile.role:
                continue
            observation = Observation(
                slot=slot,
                features=leg.features,
                prompt_tokens=used_tokens.input_tokens,
                cached_tokens=report.cached_tokens,
                output_tokens=used_tokens.output_tokens,
                ttft_s=None if report.ttft_s is None else max(0.0, report.ttft_s - entry.waited_s),
                duration_s=max(0.0, report.duration_s - entry.waited_s),
                ok=ok,
            )
            if pool.shadow is not None and leg is entry.answering:
                pool.shadow.observe(observation, self._now())
            profile.policy.observe(observation, self._now())
