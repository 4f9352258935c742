"""A limit as an operator writes it."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final, Literal, Self

from pydantic import model_validator

from gateway.config.schema.fault import Fault, raise_faults, repeats
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
    What was counted stays with the name when the amounts change."""
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

    @model_validator(mode="after")
    def _possible(self) -> Self:
        raise_faults("limit", [*self._amounts(), *self._periods(), *self._rest()])
        return self

    @property
    def effective_name(self) -> str:
        """`name`, or one made of everything but the amounts, so that limits that differ in their
        amounts only have the same name. At most `_MAX_NAME` characters, without `|`."""
        if self.name is not None:
            return self.name
        parts: list[str] = [self.count]
        if self.period is not None:
            usual = self.effective_window == self._usual_window
            parts += ("per", self.period) if usual else ("per", self.effective_window, self.period)
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

    def _amounts(self) -> list[Fault]:
        money = self.count == "cost"
        expected = "an amount" if money else f"a whole number of {_UNITS[self.count]}"
        most = MAX_LIMIT // MICROS if money else MAX_LIMIT
        faults = []
        for key, value in (("limit", self.limit), ("burst", self.burst)):
            if value is None:
                continue
            if value <= 0:
                hint = "for none at all: disabled: true, or models: []"
                faults.append(Fault((key,), f"{expected} above 0", hint=hint))
            elif value > most:
                faults.append(Fault((key,), f"{expected}, at most {most}"))
            elif not money and value != int(value):
                faults.append(Fault((key,), expected))
        return faults

    def _periods(self) -> list[Fault]:
        if self.count == "concurrency":
            return [
                Fault((key,), "nothing: concurrency is counted at every instant")
                for key, given in (
                    ("period", self.period is not None),
                    ("window", self.window == "calendar"),
                    ("burst", self.burst is not None),
                )
                if given
            ]
        faults = []
        if self.period is None:
            faults.append(Fault(("period",), "one of second, minute, hour, day, month", got="none"))
        if self.burst is not None and self.effective_window == "calendar":
            faults.append(
                Fault(
                    ("burst",),
                    "window: rolling beside it",
                    hint="all of a calendar window's limit can be used at once",
                )
            )
        return faults

    def _rest(self) -> list[Fault]:
        faults = []
        if self.weights is not None and self.count != "weighted_tokens":
            faults.append(Fault(("weights",), "count: weighted_tokens beside it"))
        faults += [
            Fault(("by", index), "each one once", hint=f"{self.by[index]} is already there")
            for index, _ in repeats(self.by)
        ]
        return faults


_UNITS: Final = {
    "requests": "requests",
    "input_tokens": "tokens",
    "output_tokens": "tokens",
    "total_tokens": "tokens",
    "weighted_tokens": "tokens",
    "concurrency": "requests",
}
