"""The verdict on a reservation: all takes or none, what is left, and when to come again."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
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
    """Not enough is left; time brings it back."""
    BUSY = "busy"
    """Concurrency: somebody must finish first."""
    NEVER = "never"
    """More was asked for than the bucket can ever hold."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Everything was taken."""

    standings: tuple[Standing, ...]
    """Of every bucket, after the takes, in their order."""
    shadow_refusals: tuple[Bucket, ...] = ()
    """Shadow buckets that would have refused. Nothing was taken from them, as nothing would have
    been had they been enforced."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Nothing was taken."""

    bucket: Bucket
    """The one to blame: that can never grant it, else that grants it last, else a busy one."""
    refusal: Refusal
    retry_after_ms: int | None
    """To the first instant at which the same request would be granted if nobody else came and
    nobody settled: the longest wait of all buckets that refuse. None unless EMPTY. When a bucket of
    concurrency refuses too, it is the earliest possible instant."""
    standings: tuple[Standing, ...]
    """Of every bucket, as they are."""
    shadow_refusals: tuple[Bucket, ...] = ()

    @property
    def retry_after_s(self) -> float | None:
        """``retry_after_ms`` in seconds."""
        return None if self.retry_after_ms is None else self.retry_after_ms / 1_000


Verdict = Granted | Denied


def fits(take: Take, state: State) -> bool:
    """Whether the bucket, in this advanced state, has the amount. One in debt has not even 0."""
    return arithmetic.available(take.bucket.rule, state) >= take.amount


def judge(takes: Sequence[Take], states: Sequence[State], now_ms: int) -> Verdict:
    """The verdict on ``takes`` from buckets in ``states``, advanced to ``now_ms``, same order."""
    shadow: list[Bucket] = []
    after: list[Standing] = []
    for take, state in zip(takes, states, strict=True):
        bucket = take.bucket
        if fits(take, state):
            state = arithmetic.take(bucket.rule, state, take.amount)
        elif bucket.shadow:
            shadow.append(bucket)
        else:
            return _denied(takes, states, now_ms)
        after.append(standing(bucket, state, now_ms))
    return Granted(tuple(after), tuple(shadow))


def standing(bucket: Bucket, state: State, now_ms: int) -> Standing:
    """How a bucket in an advanced state stands."""
    rule = bucket.rule
    return Standing(
        bucket,
        bucket.limit,
        max(0, arithmetic.available(rule, state)),
        max(0, arithmetic.reset_at_ms(rule, state) - now_ms),
    )


def tightest(standings: Iterable[Standing], dimensions: Collection[Dimension]) -> Standing | None:
    """The enforced bucket of the dimensions with the least remaining, of equals the last to reset.

    None when none of them has a limit.
    """
    least = None
    for one in standings:
        if (
            one.bucket.dimension in dimensions
            and not one.bucket.shadow
            and (least is None or _order(one) < _order(least))
        ):
            least = one
    return least


_RANK: Final = {Refusal.BUSY: 0, Refusal.EMPTY: 1, Refusal.NEVER: 2}


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
