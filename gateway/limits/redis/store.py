"""The limit store in Redis 7 or Valkey: shared by all pickers, by Redis's own clock.

One script call for a reservation, one for a settlement. All keys of a tenant have the hash tag
``{t:TENANT}``, and every key a script touches is passed to it, so it runs in a cluster.

Lua has doubles only: every number in the scripts is whole and below 2^53 (`policies.limits.types`
has the limits that see to it). Usage sums are Redis's own 64-bit integers. At most 1,000 ended
leases of a tenant are given back by one call, so that a crash of a busy picker does not block
Redis; a reservation that is denied before all are back is asked for again at once. A tenant whose
buckets are all full and that nobody calls for is forgotten by key expiry, and so are usage rows, a
day at a time.

A reservation whose answer did not come may still reach Redis, even after its own settlement. Such
a settlement is remembered for `REMEMBER_S`, so that the late one finds it and takes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, cast

import orjson
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.limits.redis.cluster import ClusterCaller
from gateway.limits.redis.line import (
    Caller,
    Line,
    connect_timeout_s,
    in_time,
)
from gateway.limits.redis.scripts import Script
from gateway.limits.rules import rule_text
from gateway.limits.store import (
    LATE_S,
    MAX_USERS_PER_DAY,
    OTHERS,
    USAGE_DAYS,
    DuplicateReservation,
    StoreUnavailable,
    UsageRecord,
    bounded,
)
from policies.limits.arithmetic import State
from policies.limits.types import Bucket, Standing, Take, check_amount, check_takes
from policies.limits.verdict import Granted, Verdict, judge, standing

REMEMBER_S: Final = 60.0
"""How long after a settlement a reservation of the same id, lost on its way till then, is known to
be too late."""

PATIENCE_S: Final = 1.0
"""Least timeout of what no request waits for: recovery and accounts."""

_LOG: Final = logging.getLogger("penstock.limits")
_RESERVE: Final = Script.load("reserve")
_SETTLE: Final = Script.load("settle")
_RENEW: Final = Script.load("renew")
_STANDING: Final = Script.load("standing")
_RENEW_AT_ONCE: Final = 500
_SCAN: Final = 1_000
_ASK_AGAIN: Final = 2
_NOT_COUNTED: Final = 2
_MOST_DOUBTFUL: Final = 10_000
_LISTED_DAYS: Final = 4
_ROWS: Final = b"#"
_METRICS: Final = {
    "n": "requests",
    "i": "input_tokens",
    "h": "cached_tokens",
    "o": "output_tokens",
    "c": "cost_micros",
}
"""First letter of a usage field to what it counts."""

Argument = str | int
Arguments = list[Argument]
Client = Redis | RedisCluster


@dataclass(slots=True)
class RedisCounters:
    """For metrics; each only grows."""

    uncounted: int = 0
    """Settlements whose usage could not be counted in full; their buckets are right."""


class RedisStore:
    """`LimitStore` in Redis. Use it from one event loop.

    What is asked in one turn of the loop is one write. Reservations have a line of their own, so
    they never wait behind settlements.
    """

    def __init__(
        self,
        client: Client,
        *,
        timeout_s: float = 0.05,
        late_s: float = LATE_S,
        usage_days: int = USAGE_DAYS,
        max_users_per_day: int = MAX_USERS_PER_DAY,
        prefix: str = "penstock:",
    ) -> None:
        """``client`` must not retry by itself and must not decode answers: see `connect`.

        ``timeout_s`` bounds every call but those for accounts; connecting goes on in the
        background, for `connect_timeout_s`. ``max_users_per_day``: see `LimitStore.settle`.
        ``prefix`` must not contain a brace; ValueError otherwise.
        """
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"the key prefix {prefix!r} must not contain braces: they tag slots")
        self.lost: Callable[[], None] = lambda: None
        """Called when a connection has ended that nobody gave up: Redis may come back empty, and
        sooner than any call of ours fails."""
        self.counters = RedisCounters()
        self._client = client
        self._timeout_s = timeout_s
        self._patience_s = max(timeout_s, PATIENCE_S)
        self._patient: RedisStore | None = None
        self._late_ms = round(late_s * 1_000)
        self._usage_s = usage_days * 86_400
        self._max_users = max_users_per_day
        self._prefix = prefix
        self._listed: dict[date, set[str]] = {}
        self._doubtful: OrderedDict[tuple[str, str], None] = OrderedDict()
        connect_s = connect_timeout_s(timeout_s)
        if isinstance(client, RedisCluster):
            self._reservations: Caller = ClusterCaller(client, connect_s, lost=self._tell)
            self._settlements: Caller = ClusterCaller(client, connect_s, lost=self._tell)
        else:
            self._reservations = Line(client, connect_s, lost=self._tell)
            self._settlements = Line(
                client, connect_s, connected=self._listed.clear, lost=self._tell
            )

    @property
    def patient(self) -> RedisStore:
        """See `LimitStore.patient`: over the same connections, with `PATIENCE_S` for each call."""
        if self._patient is None:
            self._patient = copy(self)
            self._patient._timeout_s = self._patience_s  # noqa: SLF001 - it is one of us
        return self._patient

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """See `LimitStore.reserve`. Cancelled or timed out, it may have taken: the lease returns
        it, or an early `release`."""
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
        """See `LimitStore.adopt`."""
        return bool(await self._reserve(slot, reservation_id, takes, lease_s, forced=True))

    async def renew(self, slot: str, reservation_ids: Sequence[str], lease_s: float) -> int:
        """See `LimitStore.renew`. One script call for up to 500 reservations."""
        keys, lease_ms = self._keys(slot), round(lease_s * 1_000)
        calls = [
            self._settlements.call(
                _RENEW,
                keys,
                orjson.dumps(
                    [self._late_ms, lease_ms, *reservation_ids[start : start + _RENEW_AT_ONCE]]
                ),
                self._timeout_s,
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
        """See `LimitStore.settle`. Harmless to repeat after StoreUnavailable."""
        doubtful = bool(self._doubtful) and (slot, reservation_id) in self._doubtful
        remember_ms = round(REMEMBER_S * 1_000) if doubtful else 0
        arguments: Arguments = [self._late_ms, reservation_id, remember_ms, len(charges)]
        for key, charge in charges.items():
            check_amount(f"charge to {key!r}", charge)
            arguments += (key, charge)
        keys = self._keys(slot)
        if usage is not None:
            usage = bounded(usage)
            self._list(slot, usage.day)
            keys.append(self._usage_key(slot, usage.day))
            arguments += (
                self._usage_s,
                self._max_users,
                _whose(usage, usage.user),
                _whose(usage, OTHERS if usage.user else ""),
                usage.requests,
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                usage.cost_micros,
            )
        done = await self._settlements.call(_SETTLE, keys, orjson.dumps(arguments), self._timeout_s)
        if usage is not None:
            self._list(slot, usage.day)  # again, if it took a new connection
        if doubtful:
            self._doubtful.pop((slot, reservation_id), None)
        if done == _NOT_COUNTED:
            self.counters.uncounted += 1
            if self.counters.uncounted % 1_000 == 1:
                _LOG.error(
                    "usage of %r cannot be counted in full (%d settlements so far): %r",
                    *(slot, self.counters.uncounted, usage),
                )
        return bool(done)

    async def release(self, slot: str, reservation_id: str) -> bool:
        """See `LimitStore.release`."""
        return await self.settle(slot, reservation_id, {})

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `LimitStore.standing`."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._timeout_s
        arguments: Arguments = [self._late_ms]
        for bucket in buckets:
            arguments += (bucket.key, rule_text(bucket.rule))
        while True:
            reply = await self._run(_STANDING, self._keys(slot), arguments)
            if not reply[0] or loop.time() >= end_s:
                break
        return [
            standing(bucket, state, reply[1])
            for bucket, state in zip(buckets, _states(reply, 2), strict=True)
        ]

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `LimitStore.usage`. A round trip for each day and 1,000 counts, each with
        `PATIENCE_S`."""
        rows: list[UsageRecord] = []
        for day in _days(first, last):
            fields: dict[bytes, bytes] = {}
            key, cursor = self._usage_key(slot, day), 0
            while True:
                asked = self._client.hscan(key, cursor=cursor, count=_SCAN)
                cursor, some = await in_time(
                    cast("Awaitable[tuple[int, dict[bytes, bytes]]]", asked), self._patience_s
                )
                fields.update(some)
                if not cursor:
                    break
            rows += _rows(day, fields)
        return rows

    async def usage_slots(self, first: date, last: date) -> list[str]:
        """See `LimitStore.usage_slots`. Round trips like `usage`."""
        slots: set[bytes] = set()
        for day in _days(first, last):
            cursor = 0
            while True:
                asked = self._client.sscan(self._listing_key(day), cursor=cursor, count=_SCAN)
                cursor, some = await in_time(
                    cast("Awaitable[tuple[int, list[bytes]]]", asked), self._patience_s
                )
                slots.update(some)
                if not cursor:
                    break
        return sorted(slot.decode() for slot in slots)

    async def check(self) -> None:
        """Return when Redis runs the scripts, with nothing held or taken."""
        await self._run(_STANDING, self._keys(""), [self._late_ms])

    async def close(self) -> None:
        """Wait for what was given to it, then disconnect."""
        await self._reservations.close()
        await self._settlements.close()
        await self._client.aclose()

    def _tell(self) -> None:
        self.lost()

    def _keys(self, slot: str) -> list[str]:
        tag = f"{self._prefix}{{t:{slot}}}:"
        return [tag + "b", tag + "r", tag + "x"]

    def _usage_key(self, slot: str, day: date) -> str:
        return f"{self._prefix}{{t:{slot}}}:u:{day.isoformat()}"

    def _listing_key(self, day: date) -> str:
        return f"{self._prefix}u:{day.isoformat()}"

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
        for take in takes:
            bucket = take.bucket
            arguments += (bucket.key, rule_text(bucket.rule), int(bucket.shadow), take.amount)
        try:
            return await self._run(_RESERVE, self._keys(slot), arguments)
        except (StoreUnavailable, asyncio.CancelledError):
            self._doubtful[slot, reservation_id] = None
            if len(self._doubtful) > _MOST_DOUBTFUL:
                self._doubtful.popitem(last=False)
            raise

    async def _run(self, script: Script, keys: list[str], arguments: Arguments) -> list[int]:
        answer = await self._reservations.call(
            script, keys, orjson.dumps(arguments), self._timeout_s
        )
        return cast("list[int]", answer)

    def _list(self, slot: str, day: date) -> None:
        """Have the tenant listed among those with usage on that day, before its usage is there."""
        listed = self._listed.get(day)
        if listed is None:
            listed = self._listed[day] = set()
            while len(self._listed) > _LISTED_DAYS:
                del self._listed[next(iter(self._listed))]
        if slot in listed:
            return
        listed.add(slot)
        key = self._listing_key(day)

        def done(answer: asyncio.Future[object]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                listed.discard(slot)  # the next settlement lists it

        for words in (("SADD", key, slot), ("EXPIRE", key, self._usage_s)):
            self._settlements.send(words, self._timeout_s).add_done_callback(done)


def connect(url: str, *, timeout_s: float = 0.05, max_connections: int = 32) -> Redis:
    """A client of a single Redis or Valkey, as `RedisStore` wants it: no retries, because they
    would hide how long a call takes, bytes as answers, and a bounded pool, for which calls wait
    within their own timeout.

    ``timeout_s``: of a call; redis-py's own timeouts leave time for connecting. ``url``:
    ``redis://``, ``rediss://`` or ``unix://``. Raises ValueError for another one.
    """
    patience_s = connect_timeout_s(timeout_s)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=None,
        socket_timeout=patience_s,
        socket_connect_timeout=patience_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        protocol=2,
    )
    return Redis.from_pool(pool)


def connect_cluster(url: str, *, timeout_s: float = 0.05) -> RedisCluster:
    """The same for a Redis Cluster, found from any of its nodes."""
    patience_s = connect_timeout_s(timeout_s)
    return RedisCluster.from_url(
        url,
        socket_timeout=patience_s,
        socket_connect_timeout=patience_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        protocol=2,
    )


def _states(numbers: Sequence[int], first: int) -> list[State]:
    return [State(*numbers[i : i + 3]) for i in range(first, len(numbers), 3)]


def _days(first: date, last: date) -> Iterable[date]:
    return (first + timedelta(days=offset) for offset in range((last - first).days + 1))


def _whose(usage: UsageRecord, user: str) -> str:
    return orjson.dumps([usage.key, user, usage.model]).decode()


def _rows(day: date, fields: Mapping[bytes, bytes]) -> list[UsageRecord]:
    counts: dict[bytes, dict[str, int]] = {}
    for name, value in fields.items():
        if name != _ROWS:
            counts.setdefault(name[1:], {})[_METRICS[chr(name[0])]] = int(value)
    rows = []
    for whose, counted in counts.items():
        key, user, model = orjson.loads(whose)
        of = counted.get
        rows.append(
            UsageRecord(
                day,
                key,
                user,
                model,
                of("input_tokens", 0),
                of("cached_tokens", 0),
                of("output_tokens", 0),
                of("cost_micros", 0),
                of("requests", 0),
            )
        )
    return sorted(rows, key=lambda row: (row.key, row.user, row.model))
