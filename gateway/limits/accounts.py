"""The accounts of tenants, for the admin API and the command line: their limits and their usage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from typing import Protocol

from gateway.limits.buckets import BucketStore
from gateway.limits.usage import UsageRecord, UsageStore
from policies.limits.plan import Subject, TenantPolicy
from policies.limits.types import Standing

PolicyOf = Callable[[str, str], TenantPolicy | None]
"""The policy by name of the tenant and id of the key, "" for none; None: no such tenant or key."""


class UnknownSubject(LookupError):  # noqa: N818 - a state of the world, not a fault of the caller
    """There is no such tenant; the text names it."""


class AccountsSource(Protocol):
    """Answers questions about limits and usage."""

    async def standings(self, subject: Subject, key_id: str) -> Sequence[Standing]:
        """The standings of the limits that a request of the subject would count against.

        ``key_id``: of the request's key, "" for none; ``subject.key`` is the first key of its line.
        Raises UnknownSubject and StoreUnavailable.
        """
        ...

    def usage(
        self, tenant: str | None, first: date, last: date
    ) -> AsyncIterator[tuple[str, Sequence[UsageRecord]]]:
        """Tenants with their rows, both days included; None: of all tenants. A tenant may come more
        than once, with other rows. Raises StoreUnavailable."""
        ...


class TenantAccounts:
    """`AccountsSource` over a limit store."""

    def __init__(self, buckets: BucketStore, usage: UsageStore, policy_of: PolicyOf) -> None:
        self._buckets = buckets
        self._usage = usage
        self._policy_of = policy_of

    async def standings(self, subject: Subject, key_id: str = "") -> Sequence[Standing]:
        """See `AccountsSource`."""
        policy = self._policy_of(subject.tenant, key_id)
        if policy is None:
            raise UnknownSubject(f"there is no tenant {subject.tenant!r}")
        buckets = [meter.bucket for meter in policy.meters(subject)]
        return await self._buckets.standing(subject.tenant, buckets)

    async def usage(
        self, tenant: str | None, first: date, last: date
    ) -> AsyncIterator[tuple[str, Sequence[UsageRecord]]]:
        """See `AccountsSource`."""
        slots = [tenant] if tenant is not None else await self._usage.usage_slots(first, last)
        for slot in slots:
            yield slot, await self._usage.usage(slot, first, last)
