"""What a limit store should do, written for plainness: fractions, events in order of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction

from policies.limits.types import Bucket, CalendarWindow, Period, Rule, Take, TokenBucket


def window(period: Period, at_ms: int) -> str:
    """The window's name."""
    text = datetime.fromtimestamp(at_ms // 1000, UTC).isoformat()
    cut = {
        Period.MONTH: 7,
        Period.DAY: 10,
        Period.HOUR: 13,
        Period.MINUTE: 16,
        Period.SECOND: 19,
    }
    return text[: cut[period]]


Taken = tuple[int, str]
"""In which of the bucket's lives, and in which window."""


def kind(rule: Rule) -> object:
    return rule.period if isinstance(rule, CalendarWindow) else type(rule)


BACK_MS = 1_000


class ModelBucket:
    def __init__(self, rule: Rule, now_ms: int) -> None:
        self.lives = 0
        self.begin(rule, now_ms)

    def begin(self, rule: Rule, now_ms: int) -> None:
        self.lives += 1
        self.rule = rule
        self.now_ms = now_ms
        self.level = Fraction(rule.capacity if isinstance(rule, TokenBucket) else 0)
        self.used = 0
        self.window = window(rule.period, now_ms) if isinstance(rule, CalendarWindow) else ""
        self.held = 0

    def move_to(self, now_ms: int) -> None:
        """Usually later. Earlier when the clock was set back: a little is waited out, unless
        nobody could tell because nothing is used."""
        if isinstance(self.rule, TokenBucket):
            if now_ms > self.now_ms:
                gained = Fraction((now_ms - self.now_ms) * self.rule.refill, self.rule.period_ms)
                self.level = min(Fraction(self.rule.capacity), self.level + gained)
            elif self.now_ms - now_ms <= BACK_MS and self.level < self.rule.capacity:
                return
        elif isinstance(self.rule, CalendarWindow):
            now = window(self.rule.period, now_ms)
            if now > self.window:
                self.window, self.used = now, 0
            elif self.used == 0 or window(self.rule.period, now_ms + BACK_MS) < self.window:
                self.window = now
        self.now_ms = now_ms

    def change(self, rule: Rule) -> None:
        if kind(rule) != kind(self.rule):
            self.begin(rule, self.now_ms)
        if isinstance(rule, TokenBucket) and rule != self.rule:
            assert isinstance(self.rule, TokenBucket)
            full = self.level == self.rule.capacity
            self.level = Fraction(
                rule.capacity if full else min(rule.capacity, math.floor(self.level))
            )
        self.rule = rule

    def has(self) -> int:
        if isinstance(self.rule, TokenBucket):
            return math.floor(self.level)
        if isinstance(self.rule, CalendarWindow):
            return self.rule.limit - self.used
        return self.rule.limit - self.held

    def take(self, amount: int) -> Taken:
        self.level -= amount
        self.held += amount
        self.used += amount
        return self.lives, self.window

    def settle(self, held: int, charge: int, taken: Taken) -> None:
        life, taken_in = taken
        if life != self.lives:
            held = 0
        self.held -= held
        if isinstance(self.rule, TokenBucket):
            self.level = min(Fraction(self.rule.capacity), self.level + held - charge)
        elif isinstance(self.rule, CalendarWindow):
            change = charge - held
            change = change if taken_in >= self.window else max(0, change)
            self.used = max(0, self.used + change)


@dataclass
class ModelReservation:
    takes: list[tuple[Take, Taken]]
    lease_until_ms: int
    expired: bool = False


@dataclass
class ModelVerdict:
    granted: bool
    lacking: list[Bucket]
    shadow: list[Bucket]
    remaining: list[int]


@dataclass
class Model:
    now_ms: int
    late_ms: int
    steady_ms: int = 0
    """What leases go by."""
    buckets: dict[str, ModelBucket] = field(default_factory=dict)
    reservations: dict[str, ModelReservation] = field(default_factory=dict)

    def pass_time(self, ms: int) -> None:
        end_ms = self.steady_ms + ms
        while True:
            events = [
                (r.lease_until_ms + (self.late_ms if r.expired else 0), id_)
                for id_, r in self.reservations.items()
            ]
            due = min((event for event in events if event[0] <= end_ms), default=None)
            at_ms = due[0] if due else end_ms
            self.now_ms += at_ms - self.steady_ms
            self.steady_ms = at_ms
            self._tick()
            if due is None:
                return
            reservation = self.reservations[due[1]]
            if reservation.expired:
                del self.reservations[due[1]]
            else:
                reservation.expired = True
                for take, taken_in in reservation.takes:
                    self.buckets[take.bucket.key].settle(take.amount, 0, taken_in)

    def set_clock(self, ms: int, *, with_leases: bool) -> None:
        """Forward, or back if below 0. ``with_leases``: they go by that clock, too."""
        if with_leases and ms > 0:
            self.pass_time(ms)
            return
        if with_leases:
            self.steady_ms += ms
        self.now_ms += ms
        self._tick()

    def _tick(self) -> None:
        for bucket in self.buckets.values():
            bucket.move_to(self.now_ms)

    def look(self, bucket: Bucket) -> ModelBucket:
        found = self.buckets.get(bucket.key)
        if found is None:
            found = self.buckets[bucket.key] = ModelBucket(bucket.rule, self.now_ms)
        found.move_to(self.now_ms)
        found.change(bucket.rule)
        return found

    def reserve(
        self, id_: str, takes: Sequence[Take], lease_ms: int, *, forced: bool = False
    ) -> ModelVerdict:
        fits = [self.look(take.bucket).has() >= take.amount for take in takes]
        lacking = [take.bucket for take, fit in zip(takes, fits, strict=True) if not fit]
        granted = forced or all(bucket.shadow for bucket in lacking)
        if granted:
            held = [
                (take, self.look(take.bucket).take(take.amount))
                for take, fit in zip(takes, fits, strict=True)
                if fit or (forced and not take.bucket.shadow)
            ]
            self.reservations[id_] = ModelReservation(held, self.steady_ms + lease_ms)
        return ModelVerdict(
            granted,
            [bucket for bucket in lacking if not bucket.shadow],
            [bucket for bucket in lacking if bucket.shadow],
            [max(0, self.look(take.bucket).has()) for take in takes],
        )

    def renew(self, ids: Sequence[str], lease_ms: int) -> int:
        held = [r for id_ in ids if (r := self.reservations.get(id_)) and not r.expired]
        for reservation in held:
            lease_until_ms = self.steady_ms + lease_ms
            reservation.lease_until_ms = max(reservation.lease_until_ms, lease_until_ms)
        return len(held)

    def settle(self, id_: str, charges: Mapping[str, int]) -> bool:
        reservation = self.reservations.pop(id_, None)
        if reservation is None:
            return False
        for take, taken_in in reservation.takes:
            key = take.bucket.key
            held = 0 if reservation.expired else take.amount
            self.buckets[key].settle(held, charges.get(key, 0), taken_in)
        return True
