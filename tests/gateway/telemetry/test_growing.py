"""Counters that follow a number."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from gateway.telemetry.growing import GrowingCount


def test_only_what_has_come_is_added_for_each_label() -> None:
    registry = CollectorRegistry()
    count = GrowingCount(Counter("reads", "Reads.", ("of",), registry=registry))
    for a, b in ((1, 0), (4, 2), (4, 3)):
        count.follow(a, "a")
        count.follow(b, "b")
    assert registry.get_sample_value("reads_total", {"of": "a"}) == 4
    assert registry.get_sample_value("reads_total", {"of": "b"}) == 3


def test_a_smaller_number_is_a_new_source_that_began_at_zero() -> None:
    registry = CollectorRegistry()
    count = GrowingCount(Counter("reads", "Reads.", registry=registry))
    for so_far in (5, 7, 0, 2, 1):
        count.follow(so_far)
    assert registry.get_sample_value("reads_total") == 10
