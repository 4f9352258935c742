"""What replicas count."""

from loadtests.lab.live.measured import totals
from loadtests.lab.live.strain import Strain, remarks
from loadtests.lab.replica_metrics import ReplicaCounters, ReplicaGauges, counters, gauges

PAGE = b"""
# HELP vllm:prompt_tokens_total Prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 20.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 40.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 120.0
vllm:generation_tokens_total{engine="0",model_name="m"} 5.0
vllm:request_success_total{finished_reason="stop"} 2.0
vllm:request_success_total{finished_reason="abort"} 1.0
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25"""


def test_samples_of_all_engines_are_added_and_names_are_whole() -> None:
    assert counters(PAGE) == ReplicaCounters(120, 40, 120, 5, 0, 3)
    assert counters(PAGE).computed_tokens == 85
    assert gauges(PAGE) == ReplicaGauges(3, 0, 0.25)
    assert not gauges(PAGE).idle
    assert counters(b"") == ReplicaCounters()


def _strain(machine: float, *, late_s: float = 0.0, replica: float | None = 0.1) -> Strain:
    return Strain(machine, 0.1, 2.0, replica, late_s, late_s, 0.0, 0.0)


def test_balance_is_of_the_work_that_replicas_did() -> None:
    busy, idle = ReplicaCounters(100, 50, 100, 50, 1, 3), ReplicaCounters(60, 60, 60, 0, 0, 1)
    found = totals(
        duration_s=5.0, requests=4, failed=0, by_replica=[busy, idle], strain=_strain(0.5)
    )
    assert found.tokens_max_over_mean == 2.0
    assert found.requests_max_over_mean == 1.5
    assert found.replicas_hit_rate == 110 / 160
    assert (found.preemptions, found.gateway_cpu_ms) == (1, 500.0)


def test_a_run_that_tells_of_the_machine_is_flagged() -> None:
    assert _strain(0.5).flags() == []
    assert _strain(0.99, late_s=0.2, replica=0.95).flags() == ["machine", "client", "replicas"]
    assert _strain(0.5, replica=None).flags() == []
    assert remarks([_strain(0.5)]) == []
    machine, client = remarks([_strain(0.99), _strain(0.97, late_s=0.2), _strain(0.1)])
    assert machine.startswith("Not to be trusted, 2 of 3 runs: the machine")
    assert client.startswith("Not to be trusted, 1 of 3 runs: the client was late, by up to 200 ms")
