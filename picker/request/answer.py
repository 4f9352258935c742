"""What can come of a request: a decision, or the picker's own answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from msgspec import Struct

from picker import names
from picker.request.pick import Pick
from picker.request.response_ids import Issue


class ResponseNames(Struct, frozen=True):
    """How ids of stored responses are changed in an answer."""

    known: tuple[str, str] | None = None
    """(id that the replica uses, id that the client has given)."""
    issue: Issue | None = None
    """For the response that the answer is."""

    def __bool__(self) -> bool:
        return self.known is not None or self.issue is not None


class Shown(Struct, frozen=True):
    """What clients may learn of a decision."""

    first: str
    """Address of the first choice."""
    ttft_ms: str
    """Its predicted time to the first token, "" when the policy predicts none."""

    def headers(self, served: str) -> tuple[tuple[str, str], ...]:
        """Of the response, when this replica has served."""
        by = (names.SERVED_BY, served)
        if served != self.first or not self.ttft_ms:
            return (by,)
        return by, (names.PREDICTED_TTFT_MS, self.ttft_ms)


class Decision(Struct, frozen=True):
    """Where a request goes, and how it is changed on the way."""

    id: str
    """Of the request, unique over all pickers."""
    pool: str
    picks: tuple[Pick, ...]
    """At least one; the last one answers the client."""
    set_headers: tuple[tuple[str, str], ...]
    """May hold the gateway's own key for the replicas."""
    remove_headers: tuple[str, ...]
    body: bytes | None
    """The changed body; None: as it came."""
    rename: tuple[str, str] | None
    """(model name the replica answers with, name the client asked for), when they differ."""
    response_ids: ResponseNames
    strip_usage: bool
    """We asked for the usage chunk of the stream; it is not for the client."""
    wants_session_token: bool
    """The client keeps to one endpoint by a token that the response brings."""
    metadata: Mapping[str, object]
    """For our own Lua filter and access log."""
    scores: Mapping[str, float] | None
    """By address, where they are to be shown."""
    retried_statuses: str = ""
    """Statuses of a replica, separated by commas, with which the next one is tried."""
    response_headers: tuple[tuple[str, str], ...] = ()
    """To set on the response: what is left of limits."""
    shown: Shown | None = None
    """What the response is to say of the decision; None: nothing."""

    def __repr__(self) -> str:
        return f"Decision({self.id!r}, {self.pool!r}, {self.addresses!r})"

    @property
    def addresses(self) -> tuple[str, ...]:
        """``ip:port`` of the endpoints that may answer, best first; at least one."""
        return self.picks[-1].addresses

    def destination(self, fallbacks: int | None = None) -> str:
        """Value of the destination header: the first choice and so many after it; None: all."""
        return ",".join(self.addresses if fallbacks is None else self.addresses[: fallbacks + 1])


class Handover(Struct, frozen=True):
    """How another process of this gateway comes to answer a request."""

    cluster: str
    """Of our Envoy, where that process is."""
    tenant: str
    set_headers: tuple[tuple[str, str], ...]
    remove_headers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the picker answers the client itself."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    handover: Handover | None = None
    """Our own Envoy has another process answer instead; another gateway cannot."""

    def with_headers(self, *more: tuple[str, str]) -> Answer:
        """The same with more headers."""
        return replace(self, headers=(*self.headers, *more))
