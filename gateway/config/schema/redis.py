"""The Redis in which limits are counted and usage is kept."""

from __future__ import annotations

import re
from typing import Annotated, Final, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, model_validator

from gateway.config.schema.fault import Fault, raise_faults, refuse
from gateway.config.schema.secret import Secret, TextOrSecret, revealed
from gateway.config.schema.section import Section
from gateway.config.schema.terms import Count

_PREFIX: Final = re.compile(r"[^{}\s]*")


def _prefix(value: str) -> str:
    if len(value) > 64 or not _PREFIX.fullmatch(value):
        raise refuse("at most 64 characters without white space and braces")
    return value


KeyPrefix = Annotated[str, AfterValidator(_prefix)]
RedisUrl = Annotated[TextOrSecret, "URL"]


class RedisSection(Section):
    """Redis 7 or Valkey, shared by every picker. It holds the limits and the usage ledger: turn
    persistence on (`appendonly yes`, `appendfsync everysec`) and set `maxmemory-policy
    noeviction`."""

    url: RedisUrl
    """`redis://HOST:PORT/DB`, `rediss://...` with TLS, or `unix:///PATH`. Give one with a password
    as a secret: `{env: NAME}` or `{file: PATH}`."""
    cluster: bool = False
    """It is a Redis Cluster. All keys of a tenant are in one hash slot."""
    timeout_ms: Count = 50
    """Longest wait for an answer, milliseconds. After that the tenant's `on_store_failure`
    decides what happens."""
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
        return revealed(self.url)


def _url_faults(url: str | Secret, *, cluster: bool) -> list[Fault]:
    try:
        text = revealed(url)
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


class RedisChoice(Section):
    """A store that several pickers share."""

    redis: RedisSection
    """Redis 7 or Valkey."""
