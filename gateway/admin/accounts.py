"""What is left and what was used, in the admin API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

from aiohttp import web

from gateway.admin.answers import BadRequest, answer, query
from gateway.admin.tenants import TenantSource, admin_of
from gateway.admin.usage import MAX_ROWS, MICROS, TooManyRows, UsageTable, groups_of
from policies.limits.plan import Subject
from policies.limits.types import (
    NOMINAL_MS,
    CalendarWindow,
    Dimension,
    Standing,
    TokenBucket,
)

_DAYS: Final = 30
"""Of usage, unless asked otherwise."""
_MAX_DAYS: Final = 3_660
"""Usage is kept no longer."""
_SCOPE: Final = re.compile(r"\|(?=(?:key|user|model|pool)=)")
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
        """Query: tenant or key, and user, model, pool: limits by these show where they are given.
        What is left and when it is back."""
        admin = admin_of(self._source)
        given = query(request, ("tenant", "key", "user", "model", "pool"))
        tenant, key, line = given.get("tenant", ""), given.get("key", ""), ""
        if key:
            record = admin.get_key(key).record
            if tenant and record.tenant != tenant:
                raise BadRequest(f"key {key!r} is of tenant {record.tenant!r}, not of {tenant!r}")
            tenant, line = record.tenant, record.line
        if not tenant:
            raise BadRequest("tell whose limits: tenant=NAME or key=ID")
        subject = Subject(
            tenant, line, given.get("user", ""), given.get("model", ""), given.get("pool", "")
        )
        standings = await self._source.accounts.limits(subject, key)
        now = datetime.now(UTC)
        now = now.replace(microsecond=now.microsecond // 1_000 * 1_000)
        return answer(
            {
                "tenant": tenant,
                "currency": self._source.currency,
                "at": now,
                "limits": [standing_json(one, now) for one in standings],
            }
        )

    async def usage(self, request: web.Request) -> web.Response:
        """Query: from, to (days, UTC, both included), tenant, by, format (json, csv)."""
        admin_of(self._source)
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
        return answer({"from": first, "to": last, "currency": currency, **table.as_json()})


def standing_json(standing: Standing, now: datetime) -> dict[str, object]:
    """A limit as the API shows it, in the configuration's words; amounts of money in units."""
    bucket = standing.bucket
    money = bucket.dimension is Dimension.MONEY
    window, period, limit = "concurrency", None, bucket.limit
    if isinstance(bucket.rule, TokenBucket):
        window, limit = "rolling", bucket.rule.refill
        period = _PERIODS.get(bucket.rule.period_ms, f"{bucket.rule.period_ms} ms")
    elif isinstance(bucket.rule, CalendarWindow):
        window, period = "calendar", bucket.rule.period.value
    name, *scope = _SCOPE.split(bucket.key)
    reset_at = now + timedelta(milliseconds=standing.reset_ms)
    return {
        "name": name,
        "of": dict(part.partition("=")[::2] for part in scope),
        "count": "cost" if money else bucket.dimension.value,
        "window": window,
        "period": period,
        "limit": _amount(limit, money=money),
        "burst": _amount(bucket.limit, money=money),
        "used": _amount(standing.limit - standing.remaining, money=money),
        "remaining": _amount(standing.remaining, money=money),
        "reset_s": standing.reset_s,
        "reset_at": reset_at if standing.reset_ms else None,
        "shadow": bucket.shadow,
    }


def _amount(amount: int, *, money: bool) -> int | float:
    return amount / MICROS if money else amount


def _days(given: Mapping[str, str]) -> tuple[date, date]:
    last = _day(given, "to") or datetime.now(UTC).date()
    first = _day(given, "from") or last - timedelta(days=_DAYS - 1)
    if first > last:
        raise BadRequest(f"from ({first}) must not be after to ({last})")
    if (last - first).days >= _MAX_DAYS:
        raise BadRequest(f"at most {_MAX_DAYS} days at once, got {(last - first).days + 1}")
    return first, last


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
