"""The circuit breakers of a pool, by endpoint slot and model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np

from policies.health.breaker import DEFAULT_RULES, Breaker, BreakerRules, Stage, Verdict
from policies.routing.types import Slots

_MAX_MODELS: Final = 256
"""Of an endpoint; a failure of one more is not counted. Models are those that replicas list."""


class Breakers:
    """Only what has failed lately has a breaker, so that a pool without failures has none and
    nothing is done for its requests."""

    def __init__(self, rules: BreakerRules | None = DEFAULT_RULES) -> None:
        """``rules`` None: nothing is ever left out."""
        self.opened: Counter[tuple[int, str]] = Counter()
        """By slot and model: times that it was opened here; taken by `take_opened`."""
        self._rules = rules
        self._by_slot: dict[int, dict[str, Breaker]] = {}
        self._news: set[tuple[int, str]] = set()

    def __bool__(self) -> bool:
        """Something has failed lately."""
        return bool(self._by_slot)

    def use(self, rules: BreakerRules | None) -> None:
        """Other rules from now on."""
        self._rules = rules
        if rules is None:
            self._by_slot.clear()
            return
        for breakers in self._by_slot.values():
            for breaker in breakers.values():
                breaker.use(rules)

    # -- before a request

    def admitting(self, candidates: Slots, model: str, now_s: float) -> Slots:
        """Those of the candidates that may get a request for the model, in order. May be none."""
        if not self._by_slot:
            return candidates
        shut = {
            slot
            for slot, breakers in self._by_slot.items()
            if model in breakers and not breakers[model].admits(now_s)
        }
        if not shut:
            return candidates
        admits = np.ones(max(candidates.max(initial=0), *shut) + 1, np.bool_)
        admits[list(shut)] = False
        return candidates[admits[candidates]]

    def sent(self, slot: int, model: str, now_s: float) -> None:
        """A request for the model goes to the slot."""
        breaker = self._of(slot, model)
        if breaker is not None:
            breaker.sent(now_s)

    # -- after it

    def succeeded(self, slot: int, model: str, sent_s: float, now_s: float) -> None:
        """See `Breaker.succeeded`."""
        breaker = self._of(slot, model)
        if breaker is None:
            return
        was_closed = breaker.stage(now_s) is Stage.CLOSED
        breaker.succeeded(sent_s, now_s)
        if breaker.stage(now_s) is Stage.CLOSED:
            if not was_closed:
                self._news.add((slot, model))
            elif breaker.is_idle(now_s):
                self._drop(slot, model)

    def unknown(self, slot: int, model: str, sent_s: float) -> None:
        """See `Breaker.unknown`."""
        breaker = self._of(slot, model)
        if breaker is not None:
            breaker.unknown(sent_s)

    def failed(
        self, slot: int, model: str, sent_s: float, now_s: float, reason: str, *, certain: bool
    ) -> bool:
        """See `Breaker.failed`."""
        breaker = self._made(slot, model)
        opens = breaker is not None and breaker.failed(sent_s, now_s, reason, certain=certain)
        if opens:
            self._has_opened(slot, model)
        return opens

    def silent(self, slot: int, model: str, sent_s: float, now_s: float, reason: str) -> bool:
        """See `Breaker.silent`."""
        breaker = self._made(slot, model)
        opens = breaker is not None and breaker.silent(sent_s, now_s, reason)
        if opens:
            self._has_opened(slot, model)
        return opens

    def reset(self, slot: int) -> None:
        """The slot has another endpoint now."""
        self._by_slot.pop(slot, None)
        for known in [one for one in self.opened if one[0] == slot]:
            del self.opened[known]

    # -- for people, and for other workers

    def why(self, slot: int, now_s: float) -> str:
        """Which models the endpoint gets no requests for, or few, and why; "" when it is none."""
        said = []
        for model, breaker in sorted(self._by_slot.get(slot, {}).items()):
            stage = breaker.stage(now_s)
            if stage is not Stage.CLOSED:
                left = (
                    f"for {breaker.left_s(now_s):.0f} s more" if stage is Stage.OPEN else "probing"
                )
                about = f" for {model}" if model else ""
                said.append(f"breaker open{about}, {left}: {breaker.reason}")
        return "; ".join(said)

    def tripped(self, now_s: float) -> set[int]:
        """Slots of which some breaker is not closed."""
        return {
            slot
            for slot, breakers in self._by_slot.items()
            if any(one.stage(now_s) is not Stage.CLOSED for one in breakers.values())
        }

    def news(self, now_s: float, *, everything: bool = False) -> Iterator[tuple[int, str, Verdict]]:
        """Slot, model and verdict of the breakers that have changed here since this was last asked
        for, or of all that are not closed; what is as good as new is forgotten."""
        if everything:
            for slot in list(self._by_slot):
                for model, breaker in list(self._by_slot[slot].items()):
                    if breaker.is_idle(now_s):
                        self._drop(slot, model)
                    elif breaker.stage(now_s) is not Stage.CLOSED:
                        self._news.add((slot, model))
        news, self._news = self._news, set()
        for slot, model in news:
            changed = self._of(slot, model)
            if changed is not None:
                yield slot, model, changed.verdict()

    def hear(self, slot: int, model: str, verdict: Verdict) -> None:
        """What another worker has found."""
        if verdict.until_s or (model in self._by_slot.get(slot, {})):
            breaker = self._made(slot, model)
            if breaker is not None:
                breaker.take(verdict)

    def take_opened(self) -> Counter[tuple[int, str]]:
        """How often breakers were opened here since this was last asked for."""
        opened, self.opened = self.opened, Counter()
        return opened

    # -- inside

    def _has_opened(self, slot: int, model: str) -> None:
        self.opened[slot, model] += 1
        self._news.add((slot, model))

    def _of(self, slot: int, model: str) -> Breaker | None:
        breakers = self._by_slot.get(slot)
        return None if breakers is None else breakers.get(model)

    def _made(self, slot: int, model: str) -> Breaker | None:
        if self._rules is None:
            return None
        breakers = self._by_slot.setdefault(slot, {})
        if model not in breakers:
            if len(breakers) >= _MAX_MODELS:
                return None
            breakers[model] = Breaker(self._rules)
        return breakers[model]

    def _drop(self, slot: int, model: str) -> None:
        breakers = self._by_slot[slot]
        del breakers[model]
        if not breakers:
            del self._by_slot[slot]
