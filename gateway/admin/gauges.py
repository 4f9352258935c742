"""Gauges that are made from the status: each vanishes with the endpoint or replica it is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.admin.queues import waiting
from gateway.admin.status import GatewayStatus
from picker.admission.sight import PoolSight

_ENDPOINT: Final = ("pool", "endpoint")


class StatusCollector(Collector):
    """Prometheus gauges of one status."""

    def __init__(
        self, status: GatewayStatus, queues: Sequence[PoolSight] = (), refused: int = 0
    ) -> None:
        """``refused``: requests to the admin API without its token."""
        self._status = status
        self._queues = queues
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """The families."""
        status = self._status

        def gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"penstock_{name}", meaning, value)

        def by(labels: tuple[str, str], name: str, meaning: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"penstock_{name}", meaning, labels=labels)

        up = by(_ENDPOINT, "endpoint_up", "1: the endpoint gets requests.")
        breaker = by(
            _ENDPOINT, "endpoint_breaker_open", "1: a circuit breaker keeps requests from it."
        )
        in_flight = by(_ENDPOINT, "in_flight_requests", "Requests under way on an endpoint.")
        exact = by(
            _ENDPOINT, "endpoint_cache_exact", "1: its prefix cache is known by its KV events."
        )
        restarts = by(("pool", "replica"), "replica_restarts", "Restarts of a replica.")
        for pool in status.pools:
            for endpoint in pool.endpoints:
                key = (pool.name, endpoint.address)
                up.add_metric(key, float(endpoint.healthy and not endpoint.draining))
                breaker.add_metric(key, float(bool(endpoint.breaker)))
                exact.add_metric(key, float(endpoint.cache.startswith("exact")))
                in_flight.add_metric(key, endpoint.in_flight_requests)
            for replica in pool.replicas:
                restarts.add_metric((pool.name, replica.name), replica.restarts)
        config, refused = (
            status.config,
            "1: the configuration file holds a change that was refused.",
        )
        yield from (up, breaker, exact, in_flight, restarts)
        yield from self._of_queues()
        yield gauge("ready", "1: requests can be served.", float(not status.not_ready))
        yield gauge("config_version", "Version of the configuration in force.", config.version)
        yield gauge("config_refused", refused, float(config.refused is not None))
        yield CounterMetricFamily(
            "penstock_admin_refused", "Requests to the admin API without its token.", self._refused
        )
        yield gauge("envoy_restarts", "Restarts of Envoy.", status.envoy.restarts)

    def _of_queues(self) -> Iterator[Metric]:
        by_class = ("pool", "priority")
        saturation = GaugeMetricFamily(
            "penstock_pool_saturation",
            "Share of a pool's endpoints that could not begin one more request.",
            labels=("pool",),
        )
        requests = GaugeMetricFamily(
            "penstock_queue_requests", "Requests that wait for their pool.", labels=by_class
        )
        tokens = GaugeMetricFamily(
            "penstock_queue_tokens", "Prompt and expected output of these.", labels=by_class
        )
        oldest = GaugeMetricFamily(
            "penstock_queue_oldest_seconds", "Age of the oldest of these.", labels=by_class
        )
        gap = GaugeMetricFamily(
            "penstock_queue_service_gap_tokens",
            "Service of the most and the least served tenant that waits: the difference.",
            labels=by_class,
        )
        for sight in self._queues:
            saturation.add_metric((sight.pool,), sight.saturation)
            for one in sight.classes:
                key, (count, size) = (sight.pool, str(one.priority)), waiting((one,))
                requests.add_metric(key, count)
                tokens.add_metric(key, size)
                oldest.add_metric(key, max((flow.oldest_s for flow in one.flows), default=0.0))
                gap.add_metric(key, one.gap)
        yield from (saturation, requests, tokens, oldest, gap)
