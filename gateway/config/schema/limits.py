"""Limits as an operator writes them, and where they are counted."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from gateway.config.schema.pricing import Weights
from gateway.config.schema.secret import Secret
from gateway.config.schema.section import (
    ConfigPath,
    Fault,
    Section,
    raise_faults,
    refuse,
)
from gateway.config.schema.terms import (
    Count,
    Exact,
    ModelPattern,
    Name,
)
from policies.limits.estimate import MAX_OUTPUT_TOKENS
from policies.limits.prices import MICROS
from policies.limits.types import MAX_LIMIT

Counted = Literal[
    "requests",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "weighted_tokens",
    "concurrency",
    "cost",
]
Per = Literal["second", "minute", "hour", "day", "month"]
Window = Literal["rolling", "calendar"]
Separate = Literal["key", "user", "model", "pool"]
_PREFIX: Final = re.compile(r"[^{}\s]*")
_ORDER: Final = ("key", "user", "model", "pool")
_MAX_NAME: Final = 96
_PLAIN: Final = re.compile(r"(?!.*-in-)[A-Za-z0-9._:/*?\[\]!-]+")
"""Patterns of models that a name tells apart by themselves."""
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._:/*?\[\]!+-]")


class Limit(Section):
    """A limit. It counts within one tenant: a plan's limit holds for each of its tenants by
    itself."""

    name: Name | None = None
    """Name in answers, metrics and `penstock limits`. Null: made of all but the amounts, such as
    `cost-per-month`, `total_tokens-per-calendar-hour` or `requests-per-second-by-user-for-big`.
    What was counted stays with the name when the amounts change."""
    count: Counted
    """What is counted. `concurrency`: requests in flight. `cost`: money, by `pricing`.
    `weighted_tokens`: tokens of each kind by weight."""
    limit: Exact
    """How much, above 0: a whole number, or for `cost` an amount of money."""
    period: Per | None = None
    """Time that the limit is for. Required, but not for `concurrency`, which has none."""
    window: Window | None = None
    """rolling: a token bucket that refills continuously; a month counts 30 days. calendar: a
    fixed second, minute, hour, day or month, UTC, at whose end counting starts again. Null:
    calendar for `cost` per day or month, else rolling."""
    burst: Exact | None = None
    """Most that can be used at once of a rolling limit, after a time of little use; below `limit`
    it makes the use more even. Null: as `limit`."""
    by: tuple[Separate, ...] = ()
    """Count separately for each of these. `[]`: the tenant as a whole. Requests without a key or
    a user are not counted by it; with an API key the user is the client's own word."""
    models: tuple[ModelPattern, ...] = ()
    """Patterns of the models that it holds for, as clients name them. `[]`: all."""
    pools: tuple[Name, ...] = ()
    """Pools that it holds for. `[]`: all."""
    weights: Weights | None = None
    """For `weighted_tokens`. Null: `pricing.weights`."""
    shadow: bool = False
    """Count and report, but reject nothing."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        raise_faults("limit", [*self._amounts(), *self._periods(), *self._rest()])
        return self

    @property
    def effective_name(self) -> str:
        """`name`, or one made of what is counted, when, for whom and of what: the same for limits
        that differ in their amounts only. At most `_MAX_NAME` characters, without `|`."""
        if self.name is not None:
            return self.name
        parts: list[str] = [self.count]
        if self.period is not None:
            usual = self.effective_window == self._usual_window
            parts += ("per", self.period) if usual else ("per", self.effective_window, self.period)
        if self.by:
            parts += ("by", *(kind for kind in _ORDER if kind in self.by))
        models, pools = sorted(set(self.models)), sorted(set(self.pools))
        if models:
            parts += ("for", "+".join(models))
        if pools:
            parts += ("in", "+".join(pools))
        name = "-".join(parts)
        if len(name) <= _MAX_NAME and all(_PLAIN.fullmatch(model) for model in models):
            return name
        digest = sha256(repr((models, pools)).encode(errors="surrogatepass")).hexdigest()
        return f"{_NOT_PLAIN.sub('_', name)[: _MAX_NAME - 9]}-{digest[:8]}"

    @property
    def effective_window(self) -> Window:
        """`window`, or the one that stands for null: people mean a budget of a day or a month by
        the calendar. Of concurrency, which has none, it says nothing."""
        return self._usual_window if self.window is None else self.window

    @property
    def _usual_window(self) -> Window:
        budget = self.count == "cost" and self.period in ("day", "month")
        return "calendar" if budget else "rolling"

    def _amounts(self) -> list[Fault]:
        money = self.count == "cost"
        expected = "an amount" if money else f"a whole number of {_UNITS[self.count]}"
        most = MAX_LIMIT // MICROS if money else MAX_LIMIT
        faults = []
        for key, value in (("limit", self.limit), ("burst", self.burst)):
            if value is None:
                continue
            if value <= 0:
                hint = "for none at all: disabled: true, or models: []"
                faults.append(Fault((key,), f"{expected} above 0", hint=hint))
            elif value > most:
                faults.append(Fault((key,), f"{expected}, at most {most}"))
            elif not money and value != int(value):
                faults.append(Fault((key,), expected))
        return faults

    def _periods(self) -> list[Fault]:
        if self.count == "concurrency":
            return [
                Fault((key,), "nothing: concurrency is counted at every instant")
                for key, given in (
                    ("period", self.period is not None),
                    ("window", self.window == "calendar"),
                    ("burst", self.burst is not None),
                )
                if given
            ]
        faults = []
        if self.period is None:
            faults.append(Fault(("period",), "one of second, minute, hour, day, month", got="none"))
        if self.burst is not None and self.effective_window == "calendar":
            faults.append(
                Fault(
                    ("burst",),
                    "window: rolling beside it",
                    hint="all of a calendar window's limit can be used at once",
                )
            )
        return faults

    def _rest(self) -> list[Fault]:
        faults = []
        if self.weights is not None and self.count != "weighted_tokens":
            faults.append(Fault(("weights",), "count: weighted_tokens beside it"))
        faults += [
            Fault(("by", index), "each one once", hint=f"{kind} is already there")
            for index, kind in enumerate(self.by)
            if kind in self.by[:index]
        ]
        return faults


_UNITS: Final = {
    "requests": "requests",
    "input_tokens": "tokens",
    "output_tokens": "tokens",
    "total_tokens": "tokens",
    "weighted_tokens": "tokens",
    "concurrency": "requests",
}


def _redis_kind(value: object) -> str:
    return "<reference>" if isinstance(value, dict | Secret) else "<text>"


RedisUrl = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Secret, Tag("<reference>")],
    Discriminator(_redis_kind),
]


def _prefix(value: str) -> str:
    if len(value) > 64 or not _PREFIX.fullmatch(value):
        raise refuse("at most 64 characters without white space and braces")
    return value


KeyPrefix = Annotated[str, AfterValidator(_prefix)]


class Redis(Section):
    """Redis 7 or Valkey, shared by every picker. It holds the limits and the usage ledger: turn
    persistence on (`appendonly yes`, `appendfsync everysec`) and set `maxmemory-policy
    noeviction`."""

    url: RedisUrl
    """`redis://HOST:PORT/DB`, `rediss://...` with TLS, or `unix:///PATH`; one with a password as a
    secret: `{env: NAME}` or `{file: PATH}`."""
    cluster: bool = False
    """It is a Redis Cluster. All keys of a tenant are in one hash slot."""
    timeout_ms: Count = 50
    """Longest wait for an answer, milliseconds. After that the tenant's `on_store_failure`
    says what happens."""
    prefix: KeyPrefix = "penstock:"
    """Put before every key, so that several gateways may share one Redis."""
    share: Count | None = None
    """Number of pickers that share the limits while Redis is away, for `on_store_failure: share`:
    all pickers of all machines. Null: `picker.workers`."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        raise_faults("redis", _url_faults(self.url, cluster=self.cluster))
        return self

    @property
    def address(self) -> str:
        """The URL, password and all. Raises LookupError for a reference that was never resolved."""
        return self.url.reveal() if isinstance(self.url, Secret) else self.url


def _url_faults(url: str | Secret, *, cluster: bool) -> list[Fault]:
    try:
        text = url.reveal() if isinstance(url, Secret) else url
    except LookupError:  # a reference that nobody has resolved yet
        return []
    hidden = "a URL that is not shown"
    expected = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH"
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query)
        port = parts.port
    except ValueError:
        return [Fault(("url",), expected, got=hidden)]
    there = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname) and port != 0
    if parts.scheme not in ("redis", "rediss", "unix") or not there:
        return [Fault(("url",), expected, got=hidden)]
    if isinstance(url, str) and (parts.password or "password" in query):
        return [
            Fault(
                ("url",),
                "{env: NAME} or {file: PATH}, because the URL has a password",
                got=hidden,
                hint="put the whole URL into an environment variable or a file",
            )
        ]
    if cluster and parts.scheme == "unix":
        return [Fault(("cluster",), "false: a cluster is not reached by a unix socket")]
    if cluster and parts.path.strip("/") not in ("", "0"):
        return [Fault(("url",), "database 0, the only one of a cluster", got=hidden)]
    return []


class RedisStore(Section):
    """A store that several pickers share."""

    redis: Redis
    """Redis 7 or Valkey."""


def _store_kind(value: object) -> str:
    return "<redis>" if isinstance(value, dict | RedisStore) else "<word>"


class OutputQuantile(Section):
    """How many output tokens are reserved for a request: a quantile of what the tenant's recent
    requests for the model made, and at most what the request allows (`max_tokens`)."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of requests that should make no more than what was reserved."""
    min: Annotated[int, Field(ge=0, le=MAX_OUTPUT_TOKENS)] = 16
    """Least to reserve, tokens."""
    max: Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)] = 16_384
    """Most to reserve, tokens."""
    prior: Annotated[int, Field(ge=0, le=MAX_OUTPUT_TOKENS)] = 1_024
    """Reserved while there are too few requests to learn from, tokens."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        faults = []
        if self.max < self.min:
            faults.append(Fault(("max",), f"at least `min`, {self.min}"))
        elif not self.min <= self.prior <= self.max:
            faults.append(
                Fault(("prior",), f"a number from `min` to `max`: {self.min} to {self.max}")
            )
        raise_faults("output_quantile", faults)
        return self


class ModelTokenizer(Section):
    """The tokenizer of a model, for exact counts of prompts before they are sent."""

    model: ModelPattern
    """Pattern of the models it is for, as replicas call them; the first that fits counts."""
    file: ConfigPath
    """A `tokenizer.json` in Hugging Face's format; relative to the configuration file."""


class Limits(Section):
    """Where limits are counted and usage is kept."""

    store: Annotated[
        Annotated[Literal["memory"], Tag("<word>")] | Annotated[RedisStore, Tag("<redis>")],
        Discriminator(_store_kind),
    ] = "memory"
    """memory: in the picker, for `picker.workers: 1`; usage is written to `state_dir`. Or
    `{redis: {url: ...}}`."""
    lease_s: Annotated[float, Field(ge=1)] = 60.0
    """A picker that crashed gives back what its requests held after this time, seconds; that of
    running requests is renewed."""
    output_quantile: OutputQuantile = OutputQuantile()
    """How many output tokens are reserved."""
    tokenizers: tuple[ModelTokenizer, ...] = ()
    """Exact counts of prompt tokens, about 0.5 ms for each kB of prompt. `[]`: they are estimated
    from bytes, by a ratio that starts at 4 bytes a token and that the engines' own counts
    calibrate. Needs `penstock[tokenizers]`."""
    usage_days: Annotated[int, Field(ge=1, le=3_660)] = 400
    """Time that usage is kept, days."""
    max_users_per_day: Count = 10_000
    """Users of a tenant that usage is kept apart for, a day; further ones are counted together."""
