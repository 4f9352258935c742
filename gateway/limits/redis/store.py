"""The limit store in Redis 7 or Valkey: all pickers share it, and it goes by Redis's own clock.

A reservation is one script call, and so is a settlement. All keys of a tenant have the hash tag
``{t:TENANT}``, and every key that a script uses is passed to it, so the scripts run in a cluster.

Lua has only doubles: every number in the scripts is whole and below 2^53 (`policies.limits.types`
has the bounds for that). One call gives back at most 1,000 ended leases of a tenant, so that the
crash of a busy picker does not block Redis; a reservation that is denied before all are given back
is tried again at once. The keys of a tenant whose buckets are full expire when no call comes.

A reservation whose answer did not come may still reach Redis, even after its own settlement. Such
a settlement is remembered for `REMEMBER_S`, so that the late reservation takes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import date
from typing import Final, cast

import orjson
from redis.asyncio import RedisCluster

from gateway.limits.buckets import LATE_S, DuplicateReservation
from gateway.limits.redis.client import Client, connect_timeout_s
from gateway.limits.redis.cluster import ClusterLine
from gateway.limits.redis.line import Call, Reply, ScriptLine, SingleLine
from gateway.limits.redis.scripts import Script
from gateway.limits.redis.usage import PATIENCE_S, RedisUsage
from gateway.limits.rule_text import script_text
from gateway.limits.usage import MAX_USERS_PER_DAY, USAGE_DAYS, UsageRecord, bounded
from policies.limits.arithmetic import State
from policies.limits.types import Bucket, Standing, Take, check_amount, check_takes
from policies.limits.verdict import Granted, Verdict, judge, standing

REMEMBER_S: Final = 60.0
"""How long a settlement is remembered, so that its own reservation is refused if it comes later."""

_RESERVE: Final = Script.load("reserve")
_SETTLE: Final = Script.load("settle")
_RENEW: Final = Script.load("renew")
_STANDING: Final = Script.load("standing")
_RENEW_AT_ONCE: Final = 500
_ASK_AGAIN: Final = 2
_NOT_COUNTED: Final = 2
_FIRST_OF_ROW: Final = 3
_MOST_DOUBTFUL: Final = 10_000

Arguments = list[str | int]


class RedisStore:
    """`BucketStore` and `UsageStore` in Redis. Use it from one event loop.

    All calls of one turn of the loop are one write. Reservations have a line of their own, so they
    never wait behind settlements.
    """

    volatile = False
    """See `BucketStore.volatile`."""
    waits = True
    """See `BucketStore.waits`."""

    def __init__(
        self,
        client: Client,
        *,
        timeout_s: float = 0.05,
        late_s: float = LATE_S,
        usage_days: int = USAGE_DAYS,
        max_users_per_day: int = MAX_USERS_PER_DAY,
        prefix: str = "penstock:",
        lost: Callable[[], None] = lambda: None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """``client``: see `gateway.limits.redis.client.connect`.

        ``timeout_s``: of every call but those that read usage; connecting goes on in the
        background, for `connect_timeout_s`. ``max_users_per_day``: see `BucketStore.settle`.
        ``lost`` is called when a connection has ended that was not given up here: Redis may come
        back empty, and sooner than any of our calls fails. Raises ValueError for a ``prefix`` with
        a brace.

        ``clock_ms``: roughly that of Redis; for windows of a time zone.
        """
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"the key prefix {prefix!r} must not contain braces: they tag slots")
        self._client = client
        self._timeout_s = timeout_s
        self._late_ms = round(late_s * 1_000)
        self._prefix = prefix
        self._clock_ms = clock_ms
        self._usage = RedisUsage(
            client,
            prefix,
            timeout_s=timeout_s,
            usage_days=usage_days,
            max_users_per_day=max_users_per_day,
        )
        self._doubtful: OrderedDict[tuple[str, str], None] = OrderedDict()
        connect_s = connect_timeout_s(timeout_s)
        if isinstance(client, RedisCluster):
            self._reservations: ScriptLine = ClusterLine(client, connect_s, lost=lost)
            self._settlements: ScriptLine = ClusterLine(client, connect_s, lost=lost)
        else:
            self._reservations = SingleLine(client, connect_s, lost=lost)
            self._settlements = SingleLine(
                client, connect_s, connected=self._usage.unlist_all, lost=lost
            )

    def patient(self) -> RedisStore:
        """The same store with `PATIENCE_S` for each call, for recovery. The two share everything
        but the timeout."""
        patient = copy(self)
        patient._timeout_s = max(self._timeout_s, PATIENCE_S)  # noqa: SLF001 - it is one of us
        return patient

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """See `BucketStore.reserve`. If it is cancelled or times out, Redis may hold it all the
        same, until it is settled or the end of the lease."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._timeout_s
        while True:
            reply = await self._reserve(slot, reservation_id, takes, lease_s, forced=False)
            if not reply:
                raise DuplicateReservation(slot, reservation_id)
            if reply[0] != _ASK_AGAIN or loop.time() >= end_s:
                break
        granted, now_ms = reply[0] == 1, reply[1]
        verdict = judge(takes, _states(reply, 2), now_ms)
        if isinstance(verdict, Granted) != granted:
            raise AssertionError(f"Redis and Python disagree on {takes} from {reply}")
        return verdict

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """See `BucketStore.adopt`."""
        return bool(await self._reserve(slot, reservation_id, takes, lease_s, forced=True))

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """See `BucketStore.renew`. One script call for up to 500 reservations."""
        keys, lease_ms = self._keys(slot), round(lease_s * 1_000)
        calls = [
            self._call(
                self._settlements,
                _RENEW,
                keys,
                [self._late_ms, lease_ms, *reservation_ids[start : start + _RENEW_AT_ONCE]],
            )
            for start in range(0, len(reservation_ids), _RENEW_AT_ONCE)
        ]
        return sum(cast("list[int]", await asyncio.gather(*calls)))

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        """See `BucketStore.settle`. Harmless to repeat after StoreUnavailable."""
        doubtful = bool(self._doubtful) and (slot, reservation_id) in self._doubtful
        remember_ms = round(REMEMBER_S * 1_000) if doubtful else 0
        arguments: Arguments = [self._late_ms, reservation_id, remember_ms, len(charges)]
        for key, charge in charges.items():
            check_amount(f"charge to {key!r}", charge)
            arguments += (key, charge)
        keys = self._keys(slot)
        if usage is not None:
            usage = bounded(usage)
            self._usage.list_slot(slot, usage.day, self._settlements, self._timeout_s)
            keys.append(self._usage.key(slot, usage.day))
            arguments += self._usage.arguments(usage)
        done = await self._call(self._settlements, _SETTLE, keys, arguments)
        if usage is not None:  # again: the connection may be new since then, or Redis empty
            if done == _FIRST_OF_ROW:
                self._usage.unlist(slot, usage.day)
            self._usage.list_slot(slot, usage.day, self._settlements, self._timeout_s)
            if done == _NOT_COUNTED:
                self._usage.not_counted(slot, usage)
        if doubtful:
            self._doubtful.pop((slot, reservation_id), None)
        return bool(done)

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `BucketStore.standing`."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._timeout_s
        arguments: Arguments = [self._late_ms]
        now_ms = self._clock_ms()
        for bucket in buckets:
            arguments += (bucket.key, script_text(bucket.rule, now_ms))
        while True:
            reply = await self._run(_STANDING, self._keys(slot), arguments)
            if not reply[0] or loop.time() >= end_s:
                break
        return [
            standing(bucket, state, reply[1])
            for bucket, state in zip(buckets, _states(reply, 2), strict=True)
        ]

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `UsageStore.usage`."""
        return await self._usage.usage(slot, first, last)

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `UsageStore.usage_slots`."""
        return await self._usage.usage_slots(first, last)

    async def check(self) -> None:
        """Return when Redis runs the scripts; nothing is taken."""
        await self._run(_STANDING, self._keys(""), [self._late_ms])

    async def close(self) -> None:
        """Wait for the calls that were begun, then disconnect."""
        await self._reservations.close()
        await self._settlements.close()
        await self._client.aclose()

    def _keys(self, slot: str) -> list[str]:
        tag = f"{self._prefix}{{t:{slot}}}:"
        return [tag + "t", tag + "h", tag + "x"]

    async def _reserve(
        self,
        slot: str,
        reservation_id: str,
        takes: Sequence[Take],
        lease_s: float,
        *,
        forced: bool,
    ) -> list[int]:
        check_takes(takes)
        lease_ms = round(lease_s * 1_000)
        arguments: Arguments = [self._late_ms, reservation_id, lease_ms, int(forced)]
        now_ms = self._clock_ms()
        for take in takes:
            bucket, rule = take.bucket, script_text(take.bucket.rule, now_ms)
            arguments += (bucket.key, rule, int(bucket.shadow), take.amount)
        try:
            return await self._run(_RESERVE, self._keys(slot), arguments)
        except BaseException:  # whatever it was, it may have been sent
            self._doubtful[slot, reservation_id] = None
            if len(self._doubtful) > _MOST_DOUBTFUL:
                self._doubtful.popitem(last=False)
            raise

    async def _run(self, script: Script, keys: list[str], arguments: Arguments) -> list[int]:
        return cast("list[int]", await self._call(self._reservations, script, keys, arguments))

    def _call(
        self, line: ScriptLine, script: Script, keys: list[str], arguments: Arguments
    ) -> asyncio.Future[Reply]:
        return line.begin(Call.of(script, keys, orjson.dumps(arguments), self._timeout_s))


def _states(numbers: Sequence[int], first: int) -> list[State]:
    return [State(*numbers[i : i + 3]) for i in range(first, len(numbers), 3)]
