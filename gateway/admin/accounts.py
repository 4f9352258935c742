"""Limits and usage in the admin API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

from aiohttp import web

from gateway.admin.answers import BadRequest, answer, query
from gateway.admin.tenants import TenantSource, admin_of
from gateway.admin.usage import MAX_ROWS, MICROS, TooManyRows, UsageTable, groups_of
from gateway.tenancy.problems import UnknownTenant
from gateway.tenancy.tenant_admin import TenantAdmin
from picker.request.context import bounded
from policies.limits.plan import By, Subject
from policies.limits.types import (
    NOMINAL_MS,
    CalendarWindow,
    Dimension,
    Lifetime,
    Standing,
    TokenBucket,
    tally_of,
)

_DAYS: Final = 30
"""Days of usage, by default."""
_MAX_DAYS: Final = 3_660
"""Most days of one request; usage is not kept longer."""
_PERIODS: Final = {length_ms: period.value for period, length_ms in NOMINAL_MS.items()}


class AccountHandlers:
    """Handlers of /api/limits and /api/usage."""

    def __init__(self, source: TenantSource) -> None:
        self._source = source

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/api/limits", self.limits)
        app.router.add_get("/api/usage", self.usage)

    async def limits(self, request: web.Request) -> web.Response:
        """The limits of a tenant or key, with what is left of them and when they reset.

        Query: tenant or key; user, model, pool, session, agent: limits by these are in the answer
        if they are given."""
        admin = admin_of(self._source)
        given = query(request, ("tenant", "key", "user", "model", "pool", "session", "agent"))
        tenant, key, line = given.get("tenant", ""), given.get("key", ""), ""
        if key:
            record = admin.keys.get(key)
            if tenant and record.tenant != tenant:
                raise BadRequest(f"key {key!r} is of tenant {record.tenant!r}, not of {tenant!r}")
            tenant, line = record.tenant, record.line
        if not tenant:
            raise BadRequest("tell whose limits: tenant=NAME or key=ID")
        subject = Subject(
            *(tenant, line, bounded(given.get("user", "")), given.get("model", "")),
            pool=given.get("pool", ""),
            session=bounded(given.get("session", "")),
            agent=bounded(given.get("agent", "")),
        )
        standings = await self._source.accounts.limits(subject, key)
        now = datetime.now(UTC)
        now = now.replace(microsecond=now.microsecond // 1_000 * 1_000)
        return answer(
            {
                "tenant": tenant,
                "note": _note(admin, tenant),
                "currency": self._source.currency,
                "at": now,
                "limits": [standing_json(one, subject, now) for one in standings],
            }
        )

    async def usage(self, request: web.Request) -> web.Response:
        """The sums of usage rows. Query: from, to (days, UTC, both included), tenant, by, format
        (json, csv)."""
        admin = admin_of(self._source)
        given = query(request, ("from", "to", "tenant", "by", "format"))
        first, last = _days(given)
        try:
            by = groups_of(given.get("by", "tenant").split(","))
        except ValueError as problem:
            raise BadRequest(str(problem)) from problem
        csv = _wants_csv(request, given)
        table = UsageTable(by)
        try:
            async for tenant, row in self._source.accounts.usage(given.get("tenant"), first, last):
                table.add(tenant, row)
        except TooManyRows as problem:
            raise BadRequest(
                f"that is more than {MAX_ROWS} rows: ask for fewer days, one tenant, or group by"
                " less"
            ) from problem
        currency = self._source.currency
        if csv:
            name = f"usage-{first}-{last}.csv"
            return web.Response(
                text=table.as_csv(),
                content_type="text/csv",
                charset="utf-8",
                headers={
                    "Cache-Control": "no-store",
                    "Content-Disposition": f'attachment; filename="{name}"',
                },
            )
        whose = given.get("tenant")
        return answer(
            {
                "from": first,
                "to": last,
                "tenant": whose,
                "note": _note(admin, whose) if whose else None,
                "currency": currency,
                **table.as_json(),
            }
        )


def _note(admin: TenantAdmin, tenant: str) -> str | None:
    """An explanation for a tenant that is not configured; None: it is."""
    try:
        admin.get(tenant)
    except UnknownTenant as problem:
        plan = admin.plan_of_unknown(tenant)
        if plan is None:
            return str(problem)
        return (
            f"the tenant {tenant!r} is not configured; the plan {plan} of unknown_tenants would"
            " apply"
        )
    return None


def standing_json(standing: Standing, subject: Subject, now: datetime) -> dict[str, object]:
    """A limit of the subject as the API shows it, in the words of the configuration. Amounts of
    money are in units of the currency."""
    bucket = standing.bucket
    money = bucket.dimension is Dimension.MONEY
    window, period, limit = "concurrency", None, bucket.limit
    if isinstance(bucket.rule, TokenBucket):
        window, limit = "rolling", bucket.rule.refill
        period = _PERIODS.get(bucket.rule.period_ms, f"{bucket.rule.period_ms} ms")
    elif isinstance(bucket.rule, CalendarWindow):
        window, period = "calendar", bucket.rule.period.value
    elif isinstance(bucket.rule, Lifetime):
        window = "lifetime"
    reset_at = now + timedelta(milliseconds=standing.reset_ms)
    return {
        "name": bucket.key.partition("|")[0],
        "of": _of(bucket.key, subject),
        "count": "cost" if money else bucket.dimension.value,
        "window": window,
        "period": period,
        "time_zone": bucket.rule.zone if isinstance(bucket.rule, CalendarWindow) else None,
        "idle_s": bucket.rule.idle_ms / 1_000 if isinstance(bucket.rule, Lifetime) else None,
        "limit": _amount(limit, money=money),
        "burst": _amount(bucket.limit, money=money),
        "used": _amount(_used(standing), money=money),
        "remaining": _amount(standing.remaining, money=money),
        "reset_s": standing.reset_s,
        "reset_at": reset_at if standing.reset_ms else None,
        "shadow": bucket.shadow,
    }


def _used(standing: Standing) -> int:
    """The amount that is taken and not yet back. The debt of a rolling limit is computed from its
    ``reset_ms``, so it is too large by at most the refill of a millisecond. The debt of other
    limits is not known."""
    used, rule = standing.limit - standing.remaining, standing.bucket.rule
    if standing.remaining > 0 or not isinstance(rule, TokenBucket):
        return used
    return max(used, standing.reset_ms * rule.refill // rule.period_ms)


def _of(key: str, subject: Subject) -> dict[str, str]:
    """The properties that a bucket of the subject counts separately. Clients choose the names of
    users, which may look like a part of the key, so the key is compared with the subject."""
    found: dict[str, str] = {}
    _, _, rest = tally_of(key).partition("|")
    for by in By:
        value = subject.of(by)
        if rest == f"{by.value}={value}" or rest.startswith(f"{by.value}={value}|"):
            found[by.value] = value
            rest = rest[len(by.value) + len(value) + 2 :]
    return found


def _amount(amount: int, *, money: bool) -> int | float:
    return amount / MICROS if money else amount


def _days(given: Mapping[str, str]) -> tuple[date, date]:
    last = _day(given, "to") or datetime.now(UTC).date()
    first = _day(given, "from") or _days_before(last)
    if first > last:
        raise BadRequest(f"from ({first}) must not be after to ({last})")
    if (last - first).days >= _MAX_DAYS:
        raise BadRequest(f"at most {_MAX_DAYS} days at once, got {(last - first).days + 1}")
    return first, last


def _days_before(last: date) -> date:
    days = min(_DAYS - 1, (last - date.min).days)
    return last - timedelta(days=days)


def _day(given: Mapping[str, str], key: str) -> date | None:
    if key not in given:
        return None
    try:
        return date.fromisoformat(given[key])
    except ValueError as problem:
        raise BadRequest(f"{key} must be a day such as 2027-01-31, got {given[key]!r}") from problem


def _wants_csv(request: web.Request, given: Mapping[str, str]) -> bool:
    wanted = given.get("format")
    if wanted is None:
        return request.headers.get("Accept", "").partition(";")[0].strip() == "text/csv"
    if wanted not in ("json", "csv"):
        raise BadRequest(f"format must be json or csv, got {wanted!r}")
    return wanted == "csv"
