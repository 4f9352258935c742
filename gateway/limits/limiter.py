"""The picker's limiter: holds requests to their tenants' limits, and counts their usage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import orjson
from msgspec import Struct

from gateway.limits.accounts import PolicyOf
from gateway.limits.buckets import BucketStore, StoreUnavailable
from gateway.limits.usage import UsageRecord
from picker.flight.charge import charged
from picker.request.caller import Caller
from picker.request.grant import Grant
from picker.request.report import Report
from picker.seams.limiter import LimitsUnavailable
from policies.limits.fit import fitted
from policies.limits.plan import Meter, PriceList, Subject, TenantPolicy, charges, takes
from policies.limits.prices import Cost, PriceError, Usage
from policies.limits.types import Bucket, LimitError, Standing
from policies.limits.verdict import Denied, Refusal

log = logging.getLogger(__name__)

_MAX_METERS: Final = 65_536
_MAX_ORPHANS: Final = 100_000
_RENEWALS_PER_LEASE: Final = 3
_RENEW_AT_ONCE: Final = 500
_DRAIN_POLL_S: Final = 0.5
_AGAIN: Final = "+"
"""At the end of the id of a reservation that was tried twice."""

BUSY_S: Final = 0.07
"""A little more than the interval at which Envoy reports ends, 50 ms
(`picker.server.access_log.FLUSH_S`)."""


class LimitObserver(Protocol):
    """Receives what limits did."""

    def refused(self, tenant: str, bucket: Bucket) -> None:
        """A limit refused a request."""

    def would_refuse(self, tenant: str, bucket: Bucket) -> None:
        """A shadow limit would have refused a request."""

    def charged(self, subject: Subject, usage: Usage, cost_micros: int) -> None:
        """A request was settled, once."""

    def unsettled(self) -> None:
        """A settlement failed for good: the reservation ends with its lease."""


class TenantGrant(Struct, frozen=True):
    """`picker.request.grant.Grant` of a `TenantLimiter`."""

    limiter: TenantLimiter
    id: str
    subject: Subject
    key: str
    """Id of the API key, for the usage rows."""
    expected: Usage
    price: Cost | None
    """Of the model when the request came; None: it costs nothing."""
    meters: tuple[Meter, ...]
    standings: Sequence[Standing]
    ticket: str

    def settle(self, usage: Usage) -> None:
        """See `Grant`."""
        self.limiter.settle(self, usage)

    def release(self) -> None:
        """See `Grant`."""
        self.limiter.release(self)

    def lapse(self) -> None:
        """See `Grant`."""
        self.limiter.lapse(self)


class TenantLimiter:
    """`picker.seams.limiter.Limiter` over a limit store. Use it from one event loop.

    Leases are short, and are renewed while a request runs. So the reservations of a picker that
    died are given back soon, however long its requests were.
    """

    def __init__(
        self,
        buckets: BucketStore,
        *,
        policy_of: PolicyOf,
        prices: Callable[[], PriceList],
        observer: LimitObserver,
        lease_s: float,
        wall_s: Callable[[], float] = time.time,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``prices``: those in force now, for requests whose own prices are not known here."""
        self._buckets = buckets
        self._lease_s = lease_s
        self._lease_changed = asyncio.Event()
        self._policy_of = policy_of
        self._prices = prices
        self._sleep = sleep
        self._observer = observer
        self._wall_s, self._now_s = wall_s, now_s
        self._meters: dict[Subject, tuple[TenantPolicy, tuple[Meter, ...]]] = {}
        self._held: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """By reservation: the slot, and when its lease was renewed; the oldest first."""
        self._orphans: OrderedDict[str, None] = OrderedDict()
        self._running: set[asyncio.Task[object]] = set()
        self._renewing: asyncio.Task[None] | None = None

    @property
    def lease_s(self) -> float:
        """How long a reservation lasts that is not renewed, seconds."""
        return self._lease_s

    @lease_s.setter
    def lease_s(self, lease_s: float) -> None:
        if lease_s != self._lease_s:
            self._lease_s = lease_s
            self._lease_changed.set()

    def start(self) -> None:
        """Renew leases from now on."""
        self._renewing = asyncio.create_task(self._renew(), name="limit leases")

    async def drained(self) -> None:
        """Return when nothing is held and everything is settled."""
        while self._held or self._running:  # noqa: ASYNC110 - requests end in several places
            await asyncio.sleep(_DRAIN_POLL_S)

    async def close(self) -> None:
        """Wait until everything is settled, and close the store."""
        if self._renewing is not None:
            self._renewing.cancel()
        while self._running:
            await asyncio.wait(self._running)
        await self._buckets.close()

    # -- calls of the picker

    async def reserve(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        subject: Subject,
        expected: Usage,
        *,
        guessed: bool,
    ) -> Grant | Denied | None:
        """See `Limiter`. A limit of concurrency is tried twice, `BUSY_S` apart, before it refuses:
        the end of a request is reported here so much later than its client knows it."""
        meters = self._meters_of(caller.policy, subject)
        if guessed:
            expected = fitted(meters, expected)
        slot, wanted = subject.tenant, takes(meters, expected)
        try:
            verdict = await self._buckets.reserve(slot, id, wanted, self.lease_s)
            if isinstance(verdict, Denied) and verdict.refusal is Refusal.BUSY:
                await self._sleep(BUSY_S)
                id += _AGAIN  # noqa: A001 - the first may yet be granted, and is given back then
                verdict = await self._buckets.reserve(slot, id, wanted, self.lease_s)
        except StoreUnavailable as error:
            raise LimitsUnavailable(str(error)) from error
        for bucket in verdict.shadow_refusals:
            self._observer.would_refuse(slot, bucket)
        if isinstance(verdict, Denied):
            self._observer.refused(slot, verdict.bucket)
            return verdict
        self._held[id] = (slot, self._now_s())
        return TenantGrant(
            limiter=self,
            id=id,
            subject=subject,
            key=caller.key,
            expected=expected,
            price=caller.policy.prices.of(subject.model),
            meters=meters,
            standings=verdict.standings,
            ticket=_ticket(id, subject, caller.key, expected),
        )

    async def spent(
        self,
        id: str,  # noqa: A002 - the request's id
        caller: Caller,
        least: Usage,
    ) -> Denied | None:
        """See `Limiter`. By the limits that do not depend on the body. What they say of themselves
        comes first, so that nothing is taken as a rule; only a reservation knows when to come
        again."""
        subject = Subject(caller.tenant, caller.line, caller.user)
        meters = [one for one in self._meters_of(caller.policy, subject) if not one.bucket.shadow]
        if not meters:
            return None
        try:
            standings = await self._buckets.standing(
                caller.tenant, [meter.bucket for meter in meters]
            )
            left = zip(meters, standings, strict=True)
            if all(meter.amount(least) <= standing.remaining for meter, standing in left):
                return None
            verdict = await self.reserve(f"{id}.0", caller, subject, least, guessed=False)
        except (StoreUnavailable, LimitsUnavailable):
            return None  # the reservation will say what holds then
        if isinstance(verdict, Denied):
            return verdict
        if verdict is not None:
            verdict.release()
        return None

    def settle(self, grant: TenantGrant, usage: Usage) -> None:
        """Charge the usage instead of the reserved one. Returns at once."""
        self._held.pop(grant.id, None)
        self._run(self._settle(grant, usage))

    def release(self, grant: TenantGrant) -> None:
        """Give everything back. Returns at once."""
        self._held.pop(grant.id, None)
        self._run(self._buckets.settle(grant.subject.tenant, grant.id, {}))

    def lapse(self, grant: TenantGrant) -> None:
        """Stop renewing its lease."""
        self._held.pop(grant.id, None)

    def settle_orphan(self, report: Report) -> None:
        """See `Limiter`. The store ends a reservation once, whoever settles it."""
        if report.id in self._orphans:
            return
        self._orphans[report.id] = None
        if len(self._orphans) > _MAX_ORPHANS:
            self._orphans.popitem(last=False)
        try:
            id_, subject, key, expected = _read_ticket(report.ticket)
        except (ValueError, TypeError, PriceError):
            log.exception("a ticket of an ended request cannot be read: %.200r", report.ticket)
            self._observer.unsettled()
            return
        usage = charged(report, expected)
        if usage is None:
            self._run(self._buckets.settle(subject.tenant, id_, {}))
            return
        policy = self._policy_of(subject.tenant, key)
        grant = TenantGrant(
            limiter=self,
            id=id_,
            subject=subject,
            key=key,
            expected=expected,
            price=self._prices().of(subject.model),
            meters=policy.meters(subject) if policy is not None else (),
            standings=(),
            ticket=report.ticket,
        )
        self._run(self._settle(grant, usage, orphan=True))

    # -- inside

    def _meters_of(self, policy: TenantPolicy, subject: Subject) -> tuple[Meter, ...]:
        known = self._meters.get(subject)
        if known is not None and known[0] is policy:
            return known[1]
        meters = policy.meters(subject)
        if len(self._meters) >= _MAX_METERS:
            self._meters.clear()
        self._meters[subject] = (policy, meters)
        return meters

    async def _settle(self, grant: TenantGrant, usage: Usage, *, orphan: bool = False) -> None:
        subject, price = grant.subject, grant.price
        record = UsageRecord(
            day=datetime.fromtimestamp(self._wall_s(), UTC).date(),
            key=grant.key,
            user=subject.user,
            model=subject.model,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            cost_micros=price.micros(usage) if price is not None else 0,
        )
        if orphan and self._buckets.volatile:
            wanted = takes(grant.meters, usage)
            await self._buckets.adopt(subject.tenant, grant.id, wanted, self.lease_s)
        charged_to = charges(grant.meters, usage)
        if await self._buckets.settle(subject.tenant, grant.id, charged_to, record):
            self._observer.charged(subject, usage, record.cost_micros)

    def _run(self, settling: Coroutine[None, None, object]) -> None:
        if not self._buckets.waits:
            self._run_at_once(settling)
            return
        task = asyncio.ensure_future(settling)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failed(error)

    def _run_at_once(self, settling: Coroutine[None, None, object]) -> None:
        try:
            settling.send(None)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - whoever ends a request is not to suffer
            self._failed(error)
        else:
            settling.close()
            self._failed(RuntimeError("a store that never waits has waited"))

    def _failed(self, error: BaseException) -> None:
        self._observer.unsettled()
        if isinstance(error, StoreUnavailable | LimitError):
            log.error("a settlement failed: %s", error)
        else:
            log.error("a settlement failed", exc_info=error)

    async def _renew(self) -> None:
        while True:
            self._lease_changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.lease_s / _RENEWALS_PER_LEASE):
                    await self._lease_changed.wait()
            try:
                await self._renew_old()
            except StoreUnavailable as error:
                log.warning("leases of limits are not renewed: %s", error)
            except Exception:
                log.exception("leases of limits are not renewed")

    async def _renew_old(self) -> None:
        """Renew leases of which a third is over."""
        now_s = self._now_s()
        old_s = now_s - self.lease_s / _RENEWALS_PER_LEASE
        due: dict[str, list[str]] = {}
        for id_, (slot, since_s) in self._held.items():
            if since_s > old_s:
                break
            due.setdefault(slot, []).append(id_)
        for slot, ids in due.items():
            for start in range(0, len(ids), _RENEW_AT_ONCE):
                batch = ids[start : start + _RENEW_AT_ONCE]
                await self._buckets.renew(slot, batch, self.lease_s)
                for id_ in batch:
                    if id_ in self._held:
                        self._held[id_] = (slot, now_s)
                        self._held.move_to_end(id_)


def _ticket(id_: str, subject: Subject, key: str, expected: Usage) -> str:
    parts = (
        *(id_, subject.tenant, key, subject.key, subject.user, subject.model, subject.pool),
        *(subject.session, subject.agent),
        *(expected.input_tokens, expected.output_tokens),
    )
    return orjson.dumps(parts).decode()


def _read_ticket(text: str) -> tuple[str, Subject, str, Usage]:
    """Raises ValueError, TypeError or PriceError."""
    id_, tenant, key, *of, input_tokens, output_tokens = orjson.loads(text)
    line, user, model, pool, session, agent = map(str, of)
    return (
        str(id_),
        Subject(str(tenant), line, user, model, pool, session, agent),
        str(key),
        Usage(int(input_tokens), int(output_tokens)),
    )
