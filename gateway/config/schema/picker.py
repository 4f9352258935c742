"""The picker processes and the ports that they may listen on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from gateway.config.schema.secret import Secret
from gateway.config.schema.section import Section, by_shape
from gateway.config.schema.terms import IpAddress, Port, Seconds
from gateway.config.schema.tls import ServerTls


class ExtProcSection(Section):
    """The picker's ext_proc server for somebody else's gateway (Endpoint Picker protocol)."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on."""
    port: Port | None = None
    """TCP port; the protocol's own is 9002. Null: none, only Penstock's Envoy is served."""
    tls: Annotated[
        Annotated[Literal["auto", "off"], Tag("<word>")] | Annotated[ServerTls, Tag("<files>")],
        by_shape(ServerTls, "<files>", "<word>"),
    ] = "auto"
    """auto: plain on a loopback address, a self-signed certificate elsewhere. off: plain. Or
    `certificate` and `key`."""
    message_timeout_s: Seconds = 10.0
    """How long the gateway's ext_proc filter waits for an answer (Envoy: `message_timeout`),
    seconds. A request that waits for its pool is refused with 429 after nine tenths of it."""
    max_message_timeout_s: Seconds | None = None
    """The filter's `max_message_timeout`, seconds, if it has one: a request that waits asks for so
    much time, and may wait for nine tenths of it, at most `flow.ttl_s`. Null: it has none."""
    fallbacks: Annotated[int, Field(ge=0, le=7)] = 0
    """Further replicas named behind the first choice, at most `scheduling.fallbacks`. Leave it at 0
    for gateways that take one endpoint: Envoy's ORIGINAL_DST clusters, agentgateway and NGINX
    answer 503 to a list. Envoy's override_host policy takes a list, and tries the next one when
    one cannot be reached."""


class HealthSection(Section):
    """The picker's gRPC health service."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on."""
    port: Port | None = None
    """TCP port; the Endpoint Picker protocol's own is 9003. Null: none."""


class MetricsSection(Section):
    """A Prometheus port beside the admin API, for scrapers that may not reach that."""

    address: IpAddress = "127.0.0.1"
    """IP address to listen on."""
    port: Port | None = None
    """TCP port; the Endpoint Picker protocol's own is 9090. Null: only the admin API has
    /metrics."""


class ScrapeSection(Section):
    """Reading the load of replicas from their /metrics."""

    interval_s: Seconds = 0.25
    """Time between two reads of a replica that has requests, seconds."""
    idle_interval_s: Seconds = 1.0
    """Time between two reads of a replica without requests, seconds."""
    timeout_s: Seconds = 1.0
    """Longest time for one read of metrics, seconds. Health and models have three times that, at
    most 3 s."""
    stale_after_s: Seconds = 5.0
    """A replica that has not answered for this long, seconds, gets no requests while another one
    answers. One that answers without its metrics keeps its place: after this time requests in
    flight decide instead of them."""


class PickerSection(Section):
    """The processes that decide which replica serves a request."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of picker processes. One decides some thousand requests per second."""
    failure_mode: Literal["closed", "open"] = "closed"
    """What Envoy does with a request when no picker answers: refuse it (closed), or send it to
    the least busy replica of the default pool (open)."""
    decision_timeout_s: Seconds = 10.0
    """Longest time that Envoy waits for a decision, seconds. A request that waits for its pool has
    `flow.ttl_s` besides."""
    ext_proc: ExtProcSection = ExtProcSection()
    """ext_proc over TCP, for somebody else's gateway."""
    health: HealthSection = HealthSection()
    """gRPC health service."""
    metrics: MetricsSection = MetricsSection()
    """A second Prometheus port."""
    lease_s: Seconds = 3600.0
    """A request whose end was never reported is forgotten after this time, seconds. Set it
    longer than the longest request."""
    response_key: Secret | None = None
    """Secret with which the ids of stored responses (Responses API) are made, so that every picker
    finds the replica that has one, and no other tenant can read it. Several gateways in front of
    the same replicas need the same one. Null: one of this gateway's own, kept in `state_dir`;
    without tenants none is needed."""
    scrape: ScrapeSection = ScrapeSection()
    """Reading the load of replicas."""
