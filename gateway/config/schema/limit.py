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
from policies.limits.types import MAX_LIMIT

Counted = Literal[
    "requests",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "weighted_tokens",
    "concurrency",
    "cost",
]
Per = Literal["second", "minute", "hour", "day", "month"]
Window = Literal["rolling", "calendar"]
Separate = Literal["key", "user", "model", "pool"]
_ORDER: Final = ("key", "user", "model", "pool")
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
    """Time that the limit is for. Required, except for `concurrency`, which has none."""
    window: Window | None = None
    """rolling: a token bucket that refills continuously; a month counts 30 days. calendar: a
    fixed second, minute, hour, day or month, UTC, at whose end counting starts again. Null:
    calendar for `cost` per day or month, else rolling."""
    burst: Exact | None = None
    """Most of a rolling limit that can be used at once, after a time of little use; below `limit`
    it makes the use more even. Null: as `limit`."""
    by: tuple[Separate, ...] = ()
    """Count separately for each of these. `[]`: the tenant as a whole. Requests without a key or
    a user are not counted by it; with an API key, the client itself names the user."""
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
        budget = self.count == "cost" and self.period in ("day", "month")
        return "calendar" if budget else "rolling"

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
            for key, given in (
                ("period", self.period is not None),
                ("window", self.window == "calendar"),
                ("burst", self.burst is not None),
            ):
                if given:
                    yield Fault((key,), "nothing: concurrency is counted at every instant")
            return
        if self.period is None:
            yield Fault(("period",), "one of second, minute, hour, day, month", got="none")
        if self.burst is not None and self.effective_window == "calendar":
            hint = "all of a calendar window's limit can be used at once"
            yield Fault(("burst",), "window: rolling beside it", hint=hint)

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
