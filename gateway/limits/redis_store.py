"""The limit store in Redis 7 or Valkey: shared by all pickers, by Redis's own clock.

One script call for a reservation, one for a settlement. All keys of a tenant have the hash tag
``{t:TENANT}``, and every key a script touches is passed to it, so it runs in a cluster.

Lua has doubles only: every number in the scripts is whole and below 2^53 (`policies.limits.types`
has the limits that see to it). Usage sums are Redis's own 64-bit integers. At most 1,000 ended
leases of a tenant are given back by one call; the next calls go on, so that a crash of a busy
picker does not block Redis. A tenant whose buckets are all full and that nobody calls for is
forgotten by key expiry, and so are usage rows, a day at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, TypeVar, cast

import orjson
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.limits.scripts import Script, rule_text
from gateway.limits.store import (
    LATE_S,
    USAGE_DAYS,
    DuplicateReservation,
    StoreUnavailable,
    UsageRecord,
)
from policies.limits.arithmetic import State
from policies.limits.types import Bucket, Standing, Take, check_amount, check_takes
from policies.limits.verdict import Granted, Verdict, judge, standing

_LOG: Final = logging.getLogger("penstock.limits")

_RESERVE: Final = Script.load("reserve")
_SETTLE: Final = Script.load("settle")
_STANDING: Final = Script.load("standing")
_BATCH: Final = 128
"""Most settlements of one round trip."""
_METRICS: Final = {
    "n": "requests",
    "i": "input_tokens",
    "h": "cached_tokens",
    "o": "output_tokens",
    "c": "cost_micros",
}
"""First letter of a usage field to what it counts."""

T = TypeVar("T")
Argument = str | int
Arguments = list[Argument]
Client = Redis | RedisCluster


@dataclass(slots=True)
class _Call:
    script: Script
    keys: list[str]
    arguments: bytes
    answer: asyncio.Future[int]


class RedisStore:
    """`LimitStore` in Redis. Use it from one event loop.

    Settlements are sent in batches by one task, each batch as soon as the one before is answered;
    reservations never wait behind them.
    """

    def __init__(
        self,
        client: Client,
        *,
        timeout_s: float = 0.05,
        late_s: float = LATE_S,
        usage_days: int = USAGE_DAYS,
        prefix: str = "penstock:",
    ) -> None:
        """``client`` must not retry by itself and must not decode answers: see `connect`.

        ``timeout_s`` bounds every call, connecting included. ``prefix`` must not contain a brace;
        ValueError otherwise.
        """
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"the key prefix {prefix!r} must not contain braces: they tag slots")
        self._client = client
        self._timeout_s = timeout_s
        self._late_ms = round(late_s * 1_000)
        self._usage_days = usage_days
        self._prefix = prefix
        self._settles: deque[_Call] = deque()
        self._flusher: asyncio.Task[None] | None = None

    async def reserve(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> Verdict:
        """See `LimitStore.reserve`. Cancelled or timed out, it may have taken: the lease returns
        it, or an early `release`."""
        reply = await self._reserve(slot, reservation_id, takes, lease_s, forced=False)
        if not reply:
            raise DuplicateReservation(slot, reservation_id)
        granted, now_ms, *rest = reply
        verdict = judge(takes, _states(rest), now_ms)
        if isinstance(verdict, Granted) != bool(granted):
            raise AssertionError(f"Redis and Python disagree on {takes} from {rest} at {now_ms}")
        return verdict

    async def adopt(
        self, slot: str, reservation_id: str, takes: Sequence[Take], lease_s: float
    ) -> bool:
        """See `LimitStore.adopt`."""
        return bool(await self._reserve(slot, reservation_id, takes, lease_s, forced=True))

    async def settle(
        self,
        slot: str,
        reservation_id: str,
        charges: Mapping[str, int],
        usage: UsageRecord | None = None,
    ) -> bool:
        """See `LimitStore.settle`. Harmless to repeat after StoreUnavailable."""
        arguments: Arguments = [self._late_ms, reservation_id, len(charges)]
        for key, charge in charges.items():
            check_amount(f"charge to {key!r}", charge)
            arguments += (key, charge)
        keys = self._keys(slot)
        if usage is not None:
            keys.append(self._usage_key(slot, usage.day))
            arguments += (self._usage_days * 86_400, *_increments(usage))
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._settles.append(_Call(_SETTLE, keys, orjson.dumps(arguments), answer))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="limit settlements")
        return bool(await answer)

    async def release(self, slot: str, reservation_id: str) -> bool:
        """See `LimitStore.release`."""
        return await self.settle(slot, reservation_id, {})

    async def standing(self, slot: str, buckets: Sequence[Bucket]) -> list[Standing]:
        """See `LimitStore.standing`."""
        arguments: Arguments = [self._late_ms]
        for bucket in buckets:
            arguments += (bucket.key, rule_text(bucket.rule))
        now_ms, *rest = await self._run(_STANDING, self._keys(slot), arguments)
        return [
            standing(bucket, state, now_ms)
            for bucket, state in zip(buckets, _states(rest), strict=True)
        ]

    async def usage(self, slot: str, first: date, last: date) -> list[UsageRecord]:
        """See `LimitStore.usage`. A round trip for each day, each with its own timeout."""
        rows: list[UsageRecord] = []
        for offset in range((last - first).days + 1):
            day = first + timedelta(days=offset)
            key = self._usage_key(slot, day)
            rows += _rows(day, cast("dict[bytes, bytes]", await self._ask("HGETALL", key)))
        return rows

    async def check(self) -> None:
        """Return when Redis runs the scripts, with nothing held or taken."""
        await self._run(_STANDING, self._keys(""), [self._late_ms])

    async def close(self) -> None:
        """Wait for the settlements that were given to it, then disconnect."""
        if self._flusher is not None:
            await self._flusher
        await self._client.aclose()

    def _keys(self, slot: str) -> list[str]:
        tag = f"{self._prefix}{{t:{slot}}}:"
        return [tag + "b", tag + "r", tag + "x"]

    def _usage_key(self, slot: str, day: date) -> str:
        return f"{self._prefix}{{t:{slot}}}:u:{day.isoformat()}"

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
        return await self._run(_RESERVE, self._keys(slot), arguments)

    async def _run(self, script: Script, keys: list[str], arguments: Arguments) -> list[int]:
        """One script call; a second round trip when Redis has forgotten the script."""
        try:
            answer = await self._ask(
                "EVALSHA", script.sha, len(keys), *keys, orjson.dumps(arguments)
            )
        except NoScriptError:
            answer = await self._ask(
                "EVAL", script.source, len(keys), *keys, orjson.dumps(arguments)
            )
        return cast("list[int]", answer)

    async def _ask(self, command: str, *arguments: Argument | bytes) -> object:
        asked = cast("Awaitable[object]", self._client.execute_command(command, *arguments))
        return await self._in_time(asked)

    async def _in_time(self, asked: Awaitable[T]) -> T:
        """Raises StoreUnavailable, or NoScriptError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked
        except NoScriptError:
            raise
        except (TimeoutError, RedisTimeoutError) as error:
            raise StoreUnavailable(f"no answer within {self._timeout_s * 1_000:g} ms") from error
        except (RedisConnectionError, RedisClusterException, OSError) as error:
            raise StoreUnavailable(f"no connection: {error}", lost=True) from error
        except RedisError as error:
            raise StoreUnavailable(f"refused: {error}") from error

    async def _flush(self) -> None:
        try:
            while self._settles:
                batch = [self._settles.popleft() for _ in range(min(_BATCH, len(self._settles)))]
                try:
                    await self._send(batch)
                except Exception as error:  # noqa: BLE001 - handed to the callers
                    _LOG.exception("settlements cannot be sent")
                    for call in batch:
                        if not call.answer.done():
                            call.answer.set_exception(error)
        finally:
            self._flusher = None

    async def _send(self, batch: Sequence[_Call]) -> None:
        """One round trip for all; a second one for those that met a Redis without the script.

        When there is no answer, all that waits fails at once instead of a timeout later.
        """
        try:
            answers = await self._pipeline(batch, by_sha=True)
            unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                again = await self._pipeline([batch[i] for i in unknown], by_sha=False)
                for i, answer in zip(unknown, again, strict=True):
                    answers[i] = answer
        except StoreUnavailable as error:
            for call in (*batch, *self._settles):
                if not call.answer.done():
                    call.answer.set_exception(StoreUnavailable(str(error), lost=error.lost))
            self._settles.clear()
            return
        for call, answer in zip(batch, answers, strict=True):
            if call.answer.done():  # its caller was cancelled
                continue
            if isinstance(answer, int):
                call.answer.set_result(answer)
            else:
                call.answer.set_exception(StoreUnavailable(f"refused: {answer}"))

    async def _pipeline(self, calls: Sequence[_Call], *, by_sha: bool) -> list[object]:
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            script = call.script.sha if by_sha else call.script.source
            command = "EVALSHA" if by_sha else "EVAL"
            pipeline.execute_command(command, script, len(call.keys), *call.keys, call.arguments)
        return cast("list[object]", await self._in_time(pipeline.execute(raise_on_error=False)))


def connect(url: str, *, timeout_s: float = 0.05, max_connections: int = 32) -> Redis:
    """A client of a single Redis or Valkey, as `RedisStore` wants it: no retries, because they
    would hide how long a call takes, bytes as answers, and a bounded pool, for which calls wait
    within their own timeout.

    ``url``: ``redis://``, ``rediss://`` or ``unix://``. Raises ValueError for another one.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=None,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )
    return Redis.from_pool(pool)


def connect_cluster(url: str, *, timeout_s: float = 0.05) -> RedisCluster:
    """The same for a Redis Cluster, found from any of its nodes."""
    return RedisCluster.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )


def _states(numbers: Sequence[int]) -> list[State]:
    return [State(*numbers[i : i + 3]) for i in range(0, len(numbers), 3)]


def _increments(usage: UsageRecord) -> Arguments:
    whose = orjson.dumps([usage.key, usage.user, usage.model]).decode()
    arguments: Arguments = []
    for letter, name in _METRICS.items():
        amount = cast("int", getattr(usage, name))
        if amount:
            arguments += (letter + whose, amount)
    return arguments


def _rows(day: date, fields: Mapping[bytes, bytes]) -> list[UsageRecord]:
    counts: dict[bytes, dict[str, int]] = {}
    for name, value in fields.items():
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
