"""The verdict on a reservation: all takes are granted or none, what is left, when to retry."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from policies.limits import arithmetic
from policies.limits.arithmetic import State
from policies.limits.types import (
    Bucket,
    Dimension,
    Standing,
    Take,
)


class Refusal(enum.Enum):
    """Why a bucket refuses."""

    EMPTY = "empty"
    """Not enough is left; the bucket refills with time."""
    BUSY = "busy"
    """Concurrency: another request must end first."""
    NEVER = "never"
    """The take is larger than the bucket can ever grant."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Everything was taken."""

    standings: tuple[Standing, ...]
    """Of every bucket after the takes, in the order of the takes."""
    shadow_refusals: tuple[Bucket, ...] = ()
    """Shadow buckets that would have refused. Nothing was taken from these, just as nothing would
    have been taken if they were enforced."""
    states: tuple[State, ...] = field(default=(), compare=False, repr=False)
    """Of every bucket after the takes; for the store."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Nothing was taken."""

    bucket: Bucket
    """The reason: a bucket that can never grant the take; without one, the bucket that is the last
    to grant it; without one, a busy bucket."""
    refusal: Refusal
    retry_after_ms: int | None
    """Time until the same reservation would be granted if nobody else reserved and nobody settled:
    the longest wait of all buckets that refuse. When a bucket of concurrency refuses too, the wait
    may be longer. None unless EMPTY."""
    standings: tuple[Standing, ...]
    """Of every bucket as it is, in the order of the takes."""
    shadow_refusals: tuple[Bucket, ...] = ()
    """Shadow buckets that would have refused."""

    @property
    def retry_after_s(self) -> float | None:
        """``retry_after_ms`` in seconds."""
        return None if self.retry_after_ms is None else self.retry_after_ms / 1_000


Verdict = Granted | Denied


def fits(take: Take, state: State) -> bool:
    """Whether the amount is available in the bucket's advanced state. A bucket in debt does not
    even grant 0."""
    return arithmetic.available(take.bucket.rule, state) >= take.amount


def judge(takes: Sequence[Take], states: Sequence[State], now_ms: int) -> Verdict:
    """The verdict on ``takes``. ``states``: of their buckets, in the same order, advanced to
    ``now_ms``."""
    shadow: list[Bucket] = []
    after: list[State] = []
    standings: list[Standing] = []
    for take, state in zip(takes, states, strict=True):
        bucket, amount = take.bucket, take.amount
        left = arithmetic.available(bucket.rule, state)
        if left >= amount:
            state = arithmetic.take(bucket.rule, state, amount)
            left -= amount
        elif bucket.shadow:
            shadow.append(bucket)
        else:
            return _denied(takes, states, now_ms)
        after.append(state)
        standings.append(_standing(bucket, state, left, now_ms))
    return Granted(tuple(standings), tuple(shadow), tuple(after))


def standing(bucket: Bucket, state: State, now_ms: int) -> Standing:
    """The standing of a bucket in an advanced state."""
    return _standing(bucket, state, arithmetic.available(bucket.rule, state), now_ms)


def tightest(standings: Iterable[Standing], dimensions: Collection[Dimension]) -> Standing | None:
    """Of the enforced buckets of the dimensions, the one with the least remaining; of equals, the
    one that is the last to reset. None: the dimensions have no limit."""
    found: Standing | None = None
    for one in standings:
        if one.bucket.shadow or one.bucket.dimension not in dimensions:
            continue
        if found is None or _order(one) < _order(found):
            found = one
    return found


_RANK: Final = {Refusal.BUSY: 0, Refusal.EMPTY: 1, Refusal.NEVER: 2}


def _standing(bucket: Bucket, state: State, left: int, now_ms: int) -> Standing:
    reset_ms = arithmetic.reset_at_ms(bucket.rule, state) - now_ms
    return Standing(bucket, bucket.limit, max(0, left), max(0, reset_ms))


def _refusal(take: Take, state: State) -> tuple[Bucket, Refusal, int]:
    bucket = take.bucket
    if take.amount > bucket.limit:
        return bucket, Refusal.NEVER, 0
    at_ms = arithmetic.ready_at_ms(bucket.rule, state, take.amount)
    if at_ms is None:
        return bucket, Refusal.BUSY, 0
    return bucket, Refusal.EMPTY, at_ms


def _denied(takes: Sequence[Take], states: Sequence[State], now_ms: int) -> Denied:
    lacking = [
        (take, state) for take, state in zip(takes, states, strict=True) if not fits(take, state)
    ]
    bucket, refusal, at_ms = max(
        (_refusal(take, state) for take, state in lacking if not take.bucket.shadow),
        key=lambda r: (_RANK[r[1]], r[2]),
    )
    return Denied(
        bucket,
        refusal,
        at_ms - now_ms if refusal is Refusal.EMPTY else None,
        tuple(
            standing(take.bucket, state, now_ms) for take, state in zip(takes, states, strict=True)
        ),
        tuple(take.bucket for take, _ in lacking if take.bucket.shadow),
    )


def _order(one: Standing) -> tuple[int, int]:
    return one.remaining, -one.reset_ms
