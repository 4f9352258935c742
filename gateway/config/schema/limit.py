"""A limit as an operator writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Final, Literal

from gateway.config.schema.fault import Fault, repeats
from gateway.config.schema.pricing import Weights
from gateway.config.schema.section import Section
from gateway.config.schema.terms import Exact, ModelPattern, Name
from policies.limits.prices import MICROS
from policies.limits.types import MAX_LIMIT, MAX_PERIOD_MS, LimitError, check_zone

Counted = Literal[
    "requests",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "weighted_tokens",
    "concurrency",
    "cost",
]
Per = Literal["second", "minute", "hour", "day", "week", "month"]
Window = Literal["rolling", "calendar"]
Separate = Literal["key", "user", "model", "pool", "session", "agent"]
_ORDER: Final = ("key", "user", "model", "pool", "session", "agent")
_OF_A_LIFE: Final = frozenset({"session", "agent"})
"""A limit by these may have no period."""
_IDLE_S: Final = 3_600.0
_MAX_IDLE_S: Final = MAX_PERIOD_MS // 1_000
_MAX_NAME: Final = 96
_PLAIN: Final = re.compile(r"(?!.*-in-)[A-Za-z0-9._:/*?\[\]!-]+")
"""Patterns of models that can be part of a name: no two lists of them make the same name."""
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._:/*?\[\]!+-]")


class Limit(Section):
    """A limit. It counts within one tenant: a plan's limit holds for each of its tenants by
    itself."""

    name: Name | None = None
    """Name in answers, metrics and `penstock limits`. Null: made of everything but the amounts:
    `cost-per-month`, `total_tokens-per-calendar-hour` or `requests-per-second-by-user-for-big`.
    What was used stays used when the limit, its burst, period or window change; with a name of
    your own also when models and pools do."""
    count: Counted
    """What is counted. `concurrency`: requests in flight. `cost`: money, by `pricing`.
    `weighted_tokens`: tokens of each kind by weight."""
    limit: Exact
    """How much, above 0: a whole number, or for `cost` an amount of money."""
    period: Per | None = None
    """Time that the limit is for; a week begins on Monday. Null: none, for `concurrency`, and for a
    limit by session or agent: it holds for as long as that lives, so it stops loops."""
    idle_s: float | None = None
    """For a limit without a period: a session or agent that nobody has asked for in so many seconds
    is over, and counting starts again; a refused request asks, too. Null: 3600."""
    window: Window | None = None
    """rolling: a token bucket that refills continuously; a month counts 30 days. calendar: a
    fixed second, minute, hour, day, week or month, at whose end counting starts again. Null:
    calendar for `cost` per day, week or month, and with a `time_zone`; else rolling."""
    time_zone: str | None = None
    """Time zone of a calendar window, as `Europe/Berlin`: its days have 23 to 25 hours where clocks
    change. Null: UTC."""
    burst: Exact | None = None
    """Most of a rolling limit that can be used at once, after a time of little use; below `limit`
    it makes the use more even. Null: as `limit`."""
    by: tuple[Separate, ...] = ()
    """Count separately for each of these. `[]`: the tenant as a whole. Requests without a key or
    a user are not counted by it; with an API key, the client itself names the user. session:
    header `x-session-id`, else the body's `session_id` or `prompt_cache_key`; agent: header
    `x-agent-id`, else the body's `metadata.agent_id`. A picker knows 10,000 sessions and agents of
    a tenant at a time; what is one too many counts as one, `(others)`."""
    models: tuple[ModelPattern, ...] = ()
    """Patterns of the models that it holds for, as clients name them. `[]`: all."""
    pools: tuple[Name, ...] = ()
    """Pools that it holds for. `[]`: all."""
    weights: Weights | None = None
    """For `weighted_tokens`. Null: `pricing.weights`."""
    shadow: bool = False
    """Count and report, but reject nothing."""

    def faults(self) -> Iterable[Fault]:
        """Amounts, period, window, weights and `by`."""
        return [*self._amounts(), *self._periods(), *self._rest()]

    @property
    def effective_name(self) -> str:
        """`name`, or one made of everything but the amounts, so that limits that differ in their
        amounts only have the same name. At most `_MAX_NAME` characters, without `|`."""
        if self.name is not None:
            return self.name
        period: tuple[str, ...] = ()
        if self.period is not None:
            usual = self.effective_window == self._usual_window
            period = ("per", self.period) if usual else ("per", self.effective_window, self.period)
        return self._made(*period)

    @property
    def thing(self) -> str:
        """Name of what is counted: `name` with `count`, or everything but amounts, period and
        window. What was used stays used when these change."""
        return self._made() if self.name is None else f"{self.count}:{self.name}"

    def _made(self, *period: str) -> str:
        parts = [self.count, *period]
        if self.by:
            parts += ("by", *(kind for kind in _ORDER if kind in self.by))
        models, pools = sorted(set(self.models)), sorted(set(self.pools))
        if models:
            parts += ("for", "+".join(models))
        if pools:
            parts += ("in", "+".join(pools))
        name = "-".join(parts)
        if len(name) <= _MAX_NAME and all(_PLAIN.fullmatch(model) for model in models):
            return name
        digest = sha256(repr((models, pools)).encode(errors="surrogatepass")).hexdigest()
        return f"{_NOT_PLAIN.sub('_', name)[: _MAX_NAME - 9]}-{digest[:8]}"

    @property
    def effective_window(self) -> Window:
        """`window`, or what null stands for: people mean a budget of a day or a month by the
        calendar. Without meaning for concurrency, which has no window."""
        return self._usual_window if self.window is None else self.window

    @property
    def _usual_window(self) -> Window:
        budget = self.count == "cost" and self.period in ("day", "week", "month")
        return "calendar" if budget or self.time_zone is not None else "rolling"

    @property
    def lasts_a_life(self) -> bool:
        """It has no period and holds for as long as a session or agent lives."""
        alive = self.count != "concurrency" and not _OF_A_LIFE.isdisjoint(self.by)
        return alive and self.period is None

    @property
    def effective_idle_s(self) -> float:
        """`idle_s`, or what null stands for."""
        return _IDLE_S if self.idle_s is None else self.idle_s

    def _amounts(self) -> Iterator[Fault]:
        money = self.count == "cost"
        expected = "an amount" if money else f"a whole number of {_UNITS[self.count]}"
        most = MAX_LIMIT // MICROS if money else MAX_LIMIT
        for key, value in (("limit", self.limit), ("burst", self.burst)):
            if value is None:
                continue
            if value <= 0:
                hint = "for none at all: disabled: true, or models: []"
                yield Fault((key,), f"{expected} above 0", hint=hint)
            elif value > most:
                yield Fault((key,), f"{expected}, at most {most}")
            elif not money and value != int(value):
                yield Fault((key,), expected)

    def _periods(self) -> Iterator[Fault]:
        if self.count == "concurrency":
            yield from self._none_of("period", "concurrency is counted at every instant")
            return
        if self.lasts_a_life:
            yield from self._none_of("window", "without a period there is no window")
        elif self.period is None:
            hint = "a limit by session or agent may have none"
            periods = "one of second, minute, hour, day, week, month"
            yield Fault(("period",), periods, got="none", hint=hint)
        if self.idle_s is not None:
            if not self.lasts_a_life:
                yield Fault(("idle_s",), "no period beside it, and session or agent in by")
            elif not 1 <= self.idle_s <= _MAX_IDLE_S:
                yield Fault(("idle_s",), f"1 to {_MAX_IDLE_S} seconds")
        if self.time_zone is not None and self.period is not None:
            if self.effective_window != "calendar":
                yield Fault(("time_zone",), "window: calendar beside it")
            try:
                check_zone(self.time_zone)
            except LimitError:
                yield Fault(("time_zone",), "a name of the IANA database, as Europe/Berlin")
        if self.burst is not None and self.effective_window == "calendar":
            hint = "all of a calendar window's limit can be used at once"
            yield Fault(("burst",), "window: rolling beside it", hint=hint)

    def _none_of(self, first: str, why: str) -> Iterator[Fault]:
        """Faults for what only a limit with a period can have."""
        given = {
            "period": self.period is not None,
            "window": self.window is not None and (self.window == "calendar" or first == "window"),
            "burst": self.burst is not None,
            "time_zone": self.time_zone is not None,
            "idle_s": self.idle_s is not None and first == "period",
        }
        for key, is_given in given.items():
            if is_given:
                yield Fault((key,), f"nothing: {why}")

    def _rest(self) -> Iterator[Fault]:
        if self.weights is not None and self.count != "weighted_tokens":
            yield Fault(("weights",), "count: weighted_tokens beside it")
        for index, _ in repeats(self.by):
            hint = f"{self.by[index]} is already there"
            yield Fault(("by", index), "each one once", hint=hint)


_UNITS: Final = {
    "requests": "requests",
    "input_tokens": "tokens",
    "output_tokens": "tokens",
    "total_tokens": "tokens",
    "weighted_tokens": "tokens",
    "concurrency": "requests",
}
