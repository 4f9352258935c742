"""What the admin API shows of the configuration."""

from __future__ import annotations

import json

import pytest

from gateway.admin.status import EndpointStatus, PoolStatus, ReplicaStatus, ShadowStatus
from gateway.config.config import Config
from gateway.run.status import (
    _endpoint,
    config_document,
    predictions_of,
    shadow_of,
    unusable,
)
from gateway.telemetry.predictions import RATIO_BUCKETS
from picker.state.spec import EndpointSpec
from picker.wire import control_pb2


def test_hashes_of_keys_are_not_told() -> None:
    key = {"id": "ci", "sha256": "0" * 64}
    other = {"id": "cd", "sha256": {"env": "CD_SHA256"}}
    written = {"tenants": [{"name": "acme", "keys": [key, other]}, {"name": "b"}]}
    shown = config_document(Config.model_validate_json(json.dumps(written)))
    text = json.dumps(shown)
    assert "0" * 64 not in text
    assert [tenant["name"] for tenant in json.loads(text)["tenants"]] == ["acme", "b"]
    first, second = json.loads(text)["tenants"][0]["keys"]
    assert first["sha256"] == "<sha256>"
    assert second["sha256"]["env"] == "CD_SHA256"


def test_requests_of_all_workers_add_up() -> None:
    spec = EndpointSpec("10.0.0.1:8000")
    seen = [
        control_pb2.EndpointReport(address=spec.address, healthy=healthy, in_flight_requests=count)
        for healthy, count in ((True, 3), (False, 4))
    ]
    shown = _endpoint(spec, seen)
    assert (shown.in_flight_requests, shown.healthy) == (7, True)


def test_reasons_of_any_worker_are_shown() -> None:
    spec = EndpointSpec("10.0.0.1:8000")
    seen = [
        control_pb2.EndpointReport(address=spec.address, healthy=True),
        control_pb2.EndpointReport(address=spec.address, problem="refused", warning="no load"),
    ]
    shown = _endpoint(spec, seen)
    assert (shown.healthy, shown.reason, shown.warning) == (True, "refused", "no load")


def test_every_replica_that_cannot_be_used_is_named() -> None:
    replicas = (ReplicaStatus("p-0", "backoff", detail="exit code 3"),)
    endpoints = (
        EndpointStatus("10.0.0.1:1", healthy=True),
        EndpointStatus("10.0.0.2:1", healthy=False, reason="refused"),
        EndpointStatus("10.0.0.3:1", healthy=False, draining=True, reason="draining"),
    )
    assert unusable(
        [PoolStatus("p", "process", (), replicas, endpoints), PoolStatus("q", "static")]
    ) == [
        "pool p: p-0 is backoff: exit code 3",
        "pool p: 10.0.0.2:1: refused",
        "pool q: it has no replicas",
    ]


def test_a_key_on_a_command_line_is_not_told() -> None:
    pool = {"name": "p", "type": "process", "command": ["vllm", "{port}", "--api-key", "sk-1"]}
    shown = config_document(Config.model_validate_json(json.dumps({"pools": [pool]})))
    assert "sk-1" not in json.dumps(shown)


def test_predictions_of_all_workers_add_up() -> None:
    def errors(model: str, bucket: int) -> control_pb2.PredictionErrors:
        counts = [0.0] * (len(RATIO_BUCKETS) + 1)
        counts[bucket] = 10
        return control_pb2.PredictionErrors(
            pool="p", model=model, ttft_counts=counts, tpot_counts=[0.0] * len(counts)
        )

    shown = predictions_of([errors("b", 3), errors("a", 0), errors("a", 2)])
    assert [one.model for one in shown] == ["a", "b"]
    assert shown[0].ttft_error_median == pytest.approx(0.01)
    assert shown[1].ttft_error_median == pytest.approx(0.04)
    assert shown[0].tpot_error_median is None


def test_shadows_of_all_workers_add_up() -> None:
    one = control_pb2.ShadowReport(pool="p", policy="auto", agreed=3, skipped=1)
    other = control_pb2.ShadowReport(
        pool="p", policy="auto", differed=2, failed=1, last_failure="ValueError: no"
    )
    shown = shadow_of([one, other])
    assert shown == ShadowStatus("auto", 3, 2, 0, 1, 1, "ValueError: no")
    assert shadow_of([]) is None
