"""What a limit store should do, written for plainness: fractions, events in order of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from policies.limits.types import (
    Bucket,
    CalendarWindow,
    Concurrency,
    Lifetime,
    Period,
    Rule,
    Take,
    TokenBucket,
    tally_of,
)


def window(rule: CalendarWindow, at_ms: int) -> str:
    """The window's name."""
    at = datetime.fromtimestamp(at_ms // 1000, ZoneInfo(rule.zone))
    if rule.period is Period.WEEK:
        return (at.date() - timedelta(at.weekday())).isoformat()
    cut = {
        Period.MONTH: 7,
        Period.DAY: 10,
        Period.HOUR: 13,
        Period.MINUTE: 16,
        Period.SECOND: 19,
    }
    return at.isoformat()[: cut[rule.period]]


def kind(rule: Rule) -> object:
    if isinstance(rule, CalendarWindow):
        return rule.period, rule.zone
    if isinstance(rule, Lifetime):
        return rule.idle_ms
    return Concurrency if isinstance(rule, Concurrency) else rule


DAY_MS = 86_400_000
Taken = tuple[int, str]
"""In which of a lifetime's lives, and in which window."""

BACK_MS = 1_000


class ModelBucket:
    """A tally under one rule."""

    def __init__(self, rule: Rule, now_ms: int, used: int = 0) -> None:
        self.rule = rule
        self.now_ms = self.taken_ms = now_ms
        self.level = Fraction(0)
        if isinstance(rule, TokenBucket):
            self.level = Fraction(max(0, rule.capacity - used))
        self.used = self.held = used
        self.window = window(rule, now_ms) if isinstance(rule, CalendarWindow) else ""
        self.lives = 0
        self.holders = 0

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
            now = window(self.rule, now_ms)
            if now > self.window:
                self.window, self.used = now, 0
            elif self.used == 0 or window(self.rule, now_ms + BACK_MS) < self.window:
                self.window = now
        elif isinstance(self.rule, Lifetime):
            if now_ms - self.now_ms >= self.rule.idle_ms and self.used:
                self.used, self.lives = 0, self.lives + 1
            elif self.used and self.now_ms - now_ms <= BACK_MS:
                return
        self.now_ms = now_ms

    def asked(self, now_ms: int) -> None:
        if isinstance(self.rule, Lifetime):
            self.now_ms = max(self.now_ms, now_ms)

    def has(self) -> int:
        if isinstance(self.rule, TokenBucket):
            return math.floor(self.level)
        if isinstance(self.rule, Concurrency):
            return self.rule.limit - self.held
        return self.rule.limit - self.used

    def counted(self) -> int:
        if isinstance(self.rule, TokenBucket):
            return max(0, self.rule.capacity - math.floor(self.level))
        return self.held if isinstance(self.rule, Concurrency) else self.used

    def counted_at(self, at_ms: int) -> int:
        """What was counted then, if it was only refilled since."""
        if not isinstance(self.rule, TokenBucket) or self.counted() == 0:
            return self.counted()
        gained = Fraction(max(0, self.now_ms - at_ms) * self.rule.refill, self.rule.period_ms)
        return self.rule.capacity - math.floor(self.level - gained)

    @property
    def idle(self) -> bool:
        whole = isinstance(self.rule, TokenBucket) and self.level == self.rule.capacity
        return not self.holders and (
            whole if isinstance(self.rule, TokenBucket) else self.counted() == 0
        )

    def take(self, amount: int) -> Taken:
        self.level -= amount
        self.held += amount
        self.used += amount
        self.holders += 1
        return self.lives, self.window

    def settle(self, held: int, charge: int, taken: Taken) -> None:
        self.held -= held
        if isinstance(self.rule, TokenBucket):
            self.level = min(Fraction(self.rule.capacity), self.level + held - charge)
            return
        change = charge - held
        change = change if taken >= (self.lives, self.window) else max(0, change)
        self.used = max(0, self.used + change)


@dataclass
class ModelReservation:
    takes: list[tuple[ModelBucket, int, str, Taken]]
    """Bucket, amount, key of the charge."""
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
    tallies: dict[str, list[ModelBucket]] = field(default_factory=dict)
    charged_ms: dict[str, int] = field(default_factory=dict)
    """By tally: when anything was taken or charged last."""
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
                self._forget(due[1])
            else:
                reservation.expired = True
                for bucket, amount, _, taken_in in reservation.takes:
                    bucket.settle(amount, 0, taken_in)

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
        for some in self.tallies.values():
            for bucket in some:
                bucket.move_to(self.now_ms)

    def _forget(self, id_: str) -> None:
        for bucket, *_ in self.reservations.pop(id_).takes:
            bucket.holders -= 1

    def look(self, buckets: Sequence[Bucket]) -> list[ModelBucket]:
        """These buckets now; those of one call hold together."""
        for bucket in buckets:
            some = self.tallies.setdefault(bucket.tally, [])
            for one in some:
                one.move_to(self.now_ms)
            if all(one.idle for one in some):
                some.clear()
            if len(some) > 1:
                newest_ms = max(one.taken_ms for one in some)
                some[:] = (one for one in some if not one.idle or one.taken_ms > newest_ms - DAY_MS)
        asked = {(bucket.tally, kind(bucket.rule)) for bucket in buckets}
        found = []
        for bucket in buckets:
            some = self.tallies[bucket.tally]
            known = [one for one in some if kind(one.rule) == kind(bucket.rule)]
            one = known[0] if known else ModelBucket(bucket.rule, self.now_ms)
            if not known:
                replaced = [
                    other
                    for other in some
                    if (bucket.tally, kind(other.rule)) not in asked
                    and (kind(other.rule) is Concurrency) == (kind(bucket.rule) is Concurrency)
                ]
                charged_ms = min(self.now_ms, self.charged_ms.get(bucket.tally, self.now_ms))
                then = {other: other.counted_at(charged_ms) for other in replaced}
                most = max(replaced, key=lambda other: then[other], default=None)
                if most is not None and then[most]:
                    one = ModelBucket(bucket.rule, charged_ms, then[most])
                    one.move_to(self.now_ms)
                    one.taken_ms = self.now_ms
                    some.append(one)
                    self._hand_over(most, one)
            one.rule = bucket.rule
            found.append(one)
        return found

    def _hand_over(self, replaced: ModelBucket, begun: ModelBucket) -> None:
        left = begun.counted()
        for _, reservation in sorted(self.reservations.items(), key=lambda item: item[0]):
            for bucket, amount, key, taken in reservation.takes:
                if bucket is replaced:
                    over = reservation.expired or taken < (bucket.lives, bucket.window)
                    part = 0 if over else min(amount, left)
                    left -= part
                    begun.holders += 1
                    reservation.takes.append((begun, part, key, (begun.lives, begun.window)))
                    break

    def has(self, bucket: Bucket) -> int:
        return self.look([bucket])[0].has()

    def reserve(
        self, id_: str, takes: Sequence[Take], lease_ms: int, *, forced: bool = False
    ) -> ModelVerdict:
        buckets = self.look([take.bucket for take in takes])
        for bucket in buckets:
            bucket.asked(self.now_ms)
        pairs = list(zip(takes, buckets, strict=True))
        lacking = [take.bucket for take, bucket in pairs if bucket.has() < take.amount]
        granted = forced or all(bucket.shadow for bucket in lacking)
        if granted:
            held = []
            for take, bucket in pairs:
                if take.bucket not in lacking or (forced and not take.bucket.shadow):
                    key = take.bucket.key
                    held.append((bucket, take.amount, key, bucket.take(take.amount)))
                    bucket.taken_ms = self.now_ms
                    if bucket not in self.tallies[take.bucket.tally]:
                        self.tallies[take.bucket.tally].append(bucket)
            for tally in {take.bucket.tally for take in takes}:
                self.charged_ms[tally] = self.now_ms
                most = max(
                    (take for take in takes if take.bucket.tally == tally),
                    key=lambda take: take.amount,
                )
                apart = kind(most.bucket.rule) is Concurrency
                for other in self.tallies[tally]:
                    if other not in buckets and (kind(other.rule) is Concurrency) == apart:
                        taken = other.take(most.amount)
                        held.append((other, most.amount, most.bucket.key, taken))
            self.reservations[id_] = ModelReservation(held, self.steady_ms + lease_ms)
        return ModelVerdict(
            granted,
            [bucket for bucket in lacking if not bucket.shadow],
            [bucket for bucket in lacking if bucket.shadow],
            [max(0, bucket.has()) for bucket in buckets],
        )

    def renew(self, ids: Sequence[str], lease_ms: int) -> int:
        held = [r for id_ in ids if (r := self.reservations.get(id_)) and not r.expired]
        for reservation in held:
            lease_until_ms = self.steady_ms + lease_ms
            reservation.lease_until_ms = max(reservation.lease_until_ms, lease_until_ms)
        return len(held)

    def settle(self, id_: str, charges: Mapping[str, int]) -> bool:
        reservation = self.reservations.get(id_)
        if reservation is None:
            return False
        by_tally: dict[str, int] = {}
        for key, charge in charges.items():
            by_tally[tally_of(key)] = max(by_tally.get(tally_of(key), 0), charge)
        for bucket, amount, key, taken_in in reservation.takes:
            bucket.move_to(self.now_ms)
            charge = charges.get(key, by_tally.get(tally_of(key), 0))
            bucket.settle(0 if reservation.expired else amount, charge, taken_in)
            if charge:
                self.charged_ms[tally_of(key)] = self.now_ms
        self._forget(id_)
        return True
