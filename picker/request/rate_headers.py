"""Limits as clients see them: headers, and the refusal of a request that is over one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from picker import names
from picker.request.rejection import Reason, Rejection
from policies.limits.types import (
    NOMINAL_MS,
    TOKEN_DIMENSIONS,
    Bucket,
    CalendarWindow,
    Dimension,
    Lifetime,
    Standing,
    TokenBucket,
)
from policies.limits.verdict import Denied, Refusal, tightest

Headers = tuple[tuple[str, str], ...]

_FAMILIES: Final = {
    "requests": frozenset({Dimension.REQUESTS}),
    "tokens": TOKEN_DIMENSIONS,
    "input-tokens": frozenset({Dimension.INPUT_TOKENS}),
    "output-tokens": frozenset({Dimension.OUTPUT_TOKENS}),
}
"""What headers report: OpenAI's the first two, Anthropic's all."""
_OPENAI: Final = tuple(
    (
        _FAMILIES[family],
        f"x-ratelimit-limit-{family}",
        f"x-ratelimit-remaining-{family}",
        f"x-ratelimit-reset-{family}",
    )
    for family in ("requests", "tokens")
)
"""Dimensions of a family, and the names of its headers."""
_UNITS: Final = {
    Dimension.REQUESTS: "requests",
    Dimension.INPUT_TOKENS: "input tokens",
    Dimension.OUTPUT_TOKENS: "output tokens",
    Dimension.TOTAL_TOKENS: "tokens",
    Dimension.WEIGHTED_TOKENS: "weighted tokens",
    Dimension.CONCURRENCY: "requests at once",
    Dimension.MONEY: "units of money",
}
_MICROS: Final = 1_000_000
_FAR_MS: Final = 100 * 366 * 86_400_000
"""A reset later than in 100 years is written as that: dates have an end."""
_NAMES: Final = {length_ms: period.value for period, length_ms in NOMINAL_MS.items()}


def rate_headers(standings: Sequence[Standing], *, anthropic: bool, wall_s: float) -> Headers:
    """OpenAI's ``x-ratelimit-*`` of the tightest limit of requests and of tokens; on Anthropic's
    API its own names as well, with instants instead of durations. ``wall_s``: Unix time."""
    headers: list[tuple[str, str]] = []
    for dimensions, limit, remaining, reset in _OPENAI:
        standing = tightest(standings, dimensions)
        if standing is not None:
            headers += (
                (limit, str(standing.limit)),
                (remaining, str(standing.remaining)),
                (reset, duration(standing.reset_ms)),
            )
    if anthropic:
        for family, dimensions in _FAMILIES.items():
            standing = tightest(standings, dimensions)
            if standing is not None:
                headers += (
                    (f"anthropic-ratelimit-{family}-limit", str(standing.limit)),
                    (f"anthropic-ratelimit-{family}-remaining", str(standing.remaining)),
                    (f"anthropic-ratelimit-{family}-reset", _instant(standing.reset_ms, wall_s)),
                )
    return tuple(headers)


def refusal(
    denied: Denied,
    wanted: Mapping[str, int],
    *,
    anthropic: bool,
    wall_s: float,
    fitting_tokens: int | None = None,
) -> Rejection:
    """The 429 that names the limit, how much was left and wanted, and when to come again.
    ``wanted``: by bucket key. ``fitting_tokens``: bound of each answer with which the request would
    fit into what the limits can ever grant; None: with none, or it is not known."""
    headers = list(rate_headers(denied.standings, anthropic=anthropic, wall_s=wall_s))
    if denied.retry_after_ms is not None:
        headers.append(("retry-after", str(math.ceil(denied.retry_after_ms / 1_000))))
        headers.append(("retry-after-ms", str(denied.retry_after_ms)))
        if isinstance(denied.bucket.rule, Lifetime):
            headers.append((names.SHOULD_RETRY, "false"))  # it is there to stop loops
    elif denied.refusal is Refusal.BUSY:
        headers.append(("retry-after", "1"))
    else:
        headers.append((names.SHOULD_RETRY, "false"))
    return Rejection(
        _reason(denied.bucket), _message(denied, wanted, fitting_tokens), headers=headers
    )


def duration(milliseconds: int) -> str:
    """As OpenAI writes it: ``20ms``, ``1s``, ``6m0s``, ``1h2m3s``, ``1.5s``."""
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    minutes, rest_ms = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest_ms / 1_000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _reason(bucket: Bucket) -> Reason:
    if bucket.dimension is Dimension.MONEY:
        return Reason.QUOTA_EXCEEDED
    if bucket.dimension in TOKEN_DIMENSIONS:
        return Reason.TOKENS_LIMITED
    return Reason.REQUESTS_LIMITED


def _message(denied: Denied, wanted: Mapping[str, int], fitting_tokens: int | None) -> str:
    bucket = denied.bucket
    unit = _UNITS[bucket.dimension]
    amount = _amount(bucket, wanted.get(bucket.key, 0))
    limit = f"Limit {_amount(bucket, bucket.limit)} {unit}{_period(bucket)}"
    if denied.refusal is Refusal.NEVER:
        return (
            f"This request is larger than a limit ({bucket.name}) can ever grant. {limit},"
            f" requested {amount}. {_advice(fitting_tokens)}"
        )
    left = next((s.remaining for s in denied.standings if s.bucket.key == bucket.key), 0)
    text = (
        f"Limit reached: {bucket.name}. {limit}, remaining {_amount(bucket, left)},"
        f" requested {amount}."
    )
    if denied.retry_after_ms is not None:
        return f"{text} Try again in {duration(denied.retry_after_ms)}."
    return f"{text} Try again when a running request has finished."


def _advice(fitting_tokens: int | None) -> str:
    if fitting_tokens is None:
        return "The prompt alone is too large: shorten it."
    return f"It would fit with max_tokens {fitting_tokens} or less, or with a shorter prompt."


def _amount(bucket: Bucket, amount: int) -> str:
    if bucket.dimension is not Dimension.MONEY:
        return str(amount)
    return f"{Decimal(amount).scaleb(-6):f}".rstrip("0").rstrip(".")


def _period(bucket: Bucket) -> str:
    rule = bucket.rule
    if isinstance(rule, CalendarWindow):
        return f" per {rule.period.value}"
    if isinstance(rule, Lifetime):
        return f" until nobody has asked for {duration(rule.idle_ms)}"
    if not isinstance(rule, TokenBucket):
        return ""
    every = _NAMES.get(rule.period_ms, duration(rule.period_ms))
    if rule.capacity == rule.refill:
        return f" per {every}"
    return f" at once, refilled by {_amount(bucket, rule.refill)} per {every}"


def _instant(after_ms: int, wall_s: float) -> str:
    at = datetime.fromtimestamp(wall_s, UTC) + timedelta(milliseconds=min(after_ms, _FAR_MS))
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
