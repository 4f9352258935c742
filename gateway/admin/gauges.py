"""Gauges that are made from the status: each vanishes with the endpoint or replica it is about."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.admin.status import GatewayStatus


class StatusCollector(Collector):
    """Prometheus gauges of one status."""

    def __init__(self, status: GatewayStatus, refused: int = 0) -> None:
        """``refused``: requests to the admin API without its token."""
        self._status = status
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """The families."""
        status = self._status
        labels = ("pool", "endpoint")
        up = GaugeMetricFamily(
            "penstock_endpoint_up", "1: the endpoint gets requests.", labels=labels
        )
        in_flight = GaugeMetricFamily(
            "penstock_in_flight_requests", "Requests under way on an endpoint.", labels=labels
        )
        restarts = GaugeMetricFamily(
            "penstock_replica_restarts", "Restarts of a replica.", labels=("pool", "replica")
        )
        for pool in status.pools:
            for endpoint in pool.endpoints:
                key = (pool.name, endpoint.address)
                up.add_metric(key, float(endpoint.healthy and not endpoint.draining))
                in_flight.add_metric(key, endpoint.in_flight_requests)
            for replica in pool.replicas:
                restarts.add_metric((pool.name, replica.name), replica.restarts)
        yield up
        yield in_flight
        yield restarts
        yield GaugeMetricFamily(
            "penstock_ready", "1: requests can be served.", float(not status.not_ready)
        )
        yield GaugeMetricFamily(
            "penstock_config_version",
            "Version of the configuration in force.",
            status.config.version,
        )
        yield GaugeMetricFamily(
            "penstock_config_refused",
            "1: the configuration file holds a change that was refused.",
            float(status.config.refused is not None),
        )
        yield CounterMetricFamily(
            "penstock_admin_refused",
            "Requests to the admin API without its token.",
            self._refused,
        )
        yield GaugeMetricFamily(
            "penstock_envoy_restarts", "Restarts of Envoy.", status.envoy.restarts
        )
