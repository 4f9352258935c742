"""What is read from the /metrics of each engine."""

from __future__ import annotations

import pytest

from picker.signals.engines import Engine, SignalError, detect, extract

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a}b"} 7.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a}b"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a}b",reason="capacity"} 90.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a}b"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="a}b"} 12345.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_cpu_blocks="None",\
num_gpu_blocks="1000",num_gpu_blocks_override="None"} 1.0
"""


def _vllm(*lines: str, without: str = "\0") -> bytes:
    kept = [line for line in VLLM.splitlines() if not line.startswith(without)]
    return ("\n".join([*kept, *lines]) + "\n").encode()


def test_vllm() -> None:
    signals = extract(_vllm(), Engine.VLLM)
    assert (signals.waiting_requests, signals.running_requests) == (3.0, 7.0)
    assert signals.kv_usage == 0.25
    assert (signals.kv_capacity_tokens, signals.kv_block_tokens) == (16000, 16)
    assert (signals.max_loras, signals.running_adapters) == (0, frozenset())


def test_older_vllm_calls_kv_usage_otherwise() -> None:
    body = _vllm('vllm:gpu_cache_usage_perc{model_name="m"} 0.75', without="vllm:kv_cache")
    assert extract(body, Engine.VLLM).kv_usage == 0.75


def test_data_parallel_engines_are_one_replica() -> None:
    body = b"""\
vllm:num_requests_running{engine="0"} 7
vllm:num_requests_running{engine="1"} 1
vllm:num_requests_waiting{engine="0"} 3
vllm:num_requests_waiting{engine="1"} 2
vllm:kv_cache_usage_perc{engine="0"} 0.2
vllm:kv_cache_usage_perc{engine="1"} 0.4
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="100"} 1
"""
    signals = extract(body, Engine.VLLM)
    assert (signals.waiting_requests, signals.running_requests) == (5, 8)
    assert signals.kv_usage == pytest.approx(0.3)
    assert signals.kv_capacity_tokens == 3200


@pytest.mark.parametrize(
    ("labels", "capacity_tokens", "block_tokens"),
    [
        ('block_size="16",num_gpu_blocks="None"', None, 16),
        ('block_size="16",num_gpu_blocks="0"', None, 16),
        ('block_size="None",num_gpu_blocks="100"', None, None),
        ('num_gpu_blocks_override="5",block_size="128",num_gpu_blocks="10"', 1280, 128),
        ('block_size="16",kv_cache_size_tokens="999",num_gpu_blocks="100"', 999, 16),
        ('block_size="16",kv_cache_size_tokens="None",num_gpu_blocks="100"', 1600, 16),
        ('note="x\\",block_size=\\"7\\"",block_size="16",num_gpu_blocks="1"', 16, 16),
    ],
)
def test_cache_sizes_that_engines_write(
    labels: str, capacity_tokens: float | None, block_tokens: int | None
) -> None:
    body = _vllm(f"vllm:cache_config_info{{{labels}}} 1.0", without="vllm:cache_config")
    signals = extract(body, Engine.VLLM)
    assert (signals.kv_capacity_tokens, signals.kv_block_tokens) == (capacity_tokens, block_tokens)


def test_newest_adapter_line_wins_wherever_it_stands() -> None:
    def line(running: str, waiting: str, seen: str) -> str:
        return (
            f'vllm:lora_requests_info{{max_lora="4",running_lora_adapters="{running}",'
            f'waiting_lora_adapters="{waiting}"}} {seen}'
        )

    signals = extract(
        _vllm(
            line("", "", "1.7886264577368872e+09"),
            line("sql, chat", "code", "1.7886264587368872e+09"),
            line("sql", "", "1.7886264547368872e+09"),
        ),
        Engine.VLLM,
    )
    assert signals.max_loras == 4
    assert signals.running_adapters == {"sql", "chat"}
    assert signals.waiting_adapters == {"code"}


def test_first_tokens_are_counted_over_all_label_sets() -> None:
    counts = [
        f'vllm:time_to_first_token_seconds_count{{engine="{engine}",model_name="m"}} {count}'
        for engine, count in (("0", "12.0"), ("1", "30.0"))
    ]
    bucket = 'vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 5.0'
    assert extract(_vllm(bucket, *counts), Engine.VLLM).first_tokens == 42
    assert extract(_vllm(), Engine.VLLM).first_tokens is None


def test_sglangs_count_of_first_tokens_is_too_late_to_be_one() -> None:
    body = b"""\
sglang:num_running_reqs{model_name="m"} 1.0
sglang:num_queue_reqs{model_name="m"} 0.0
sglang:token_usage{model_name="m"} 0.1
sglang:time_to_first_token_seconds_count{model_name="m"} 7.0
"""
    assert extract(body, Engine.SGLANG).first_tokens is None


def test_sglang_with_gauges_of_capacity() -> None:
    signals = extract(
        b"""\
sglang:num_running_reqs{dp_rank="0",model_name="m"} 4.0
sglang:num_queue_reqs{dp_rank="0",model_name="m"} 2.0
sglang:token_usage{dp_rank="0",model_name="m"} 0.5
sglang:max_total_num_tokens{dp_rank="0",model_name="m"} 5000.0
sglang:page_size{dp_rank="0",model_name="m"} 64.0
""",
        Engine.SGLANG,
    )
    assert (signals.waiting_requests, signals.running_requests) == (2, 4)
    assert (signals.kv_usage, signals.kv_capacity_tokens) == (0.5, 5000)
    assert signals.kv_block_tokens == 64


def test_older_sglang_with_an_info_line() -> None:
    signals = extract(
        b"""\
sglang:num_running_reqs 4.0
sglang:num_queue_reqs 2.0
sglang:token_usage 0.5
sglang:cache_config_info{num_pages="100",page_size="8"} 1.0
""",
        Engine.SGLANG,
    )
    assert (signals.kv_capacity_tokens, signals.kv_block_tokens) == (800, 8)


def test_tensorrt_llm() -> None:
    signals = extract(
        b"""\
trtllm_num_requests_waiting{engine_type="trtllm"} 1.0
trtllm_num_requests_running{engine_type="trtllm"} 2.0
trtllm_kv_cache_utilization{engine_type="trtllm"} 0.125
trtllm_kv_cache_max_blocks{engine_type="trtllm"} 10
trtllm_kv_cache_tokens_per_block{engine_type="trtllm"} 32
""",
        Engine.TRTLLM,
    )
    assert (signals.waiting_requests, signals.running_requests) == (1, 2)
    assert (signals.kv_usage, signals.kv_capacity_tokens) == (0.125, 320)
    assert signals.kv_block_tokens == 32


@pytest.mark.parametrize(
    ("body", "engine"),
    [
        (_vllm(), Engine.VLLM),
        (b"sglang:num_queue_reqs 0\n", Engine.SGLANG),
        (b"python_info 1\ntrtllm_num_requests_waiting 0\n", Engine.TRTLLM),
    ],
)
def test_the_engine_is_told_from_its_metrics(body: bytes, engine: Engine) -> None:
    assert detect(body) is engine


@pytest.mark.parametrize("body", [b"", b"<html>hello</html>", b"\x00\xff" * 50, b"up 1\n"])
def test_something_else_is_no_engine(body: bytes) -> None:
    with pytest.raises(SignalError, match="vllm:num_requests_waiting or sglang:num_queue_reqs"):
        detect(body)


@pytest.mark.parametrize(
    "metric", ["vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"]
)
@pytest.mark.parametrize("value", [None, "NaN", "+Inf", "-1", "many", ""])
def test_missing_and_bad_values_name_the_metric(metric: str, value: str | None) -> None:
    lines = [] if value is None else [f'{metric}{{engine="0"}} {value}']
    body = _vllm(*lines, without=metric + "{")
    with pytest.raises(SignalError, match=metric) as raised:
        extract(body, Engine.VLLM)
    assert raised.value.metric == metric


def test_a_body_cut_short_is_an_error_or_complete_never_a_crash() -> None:
    body = _vllm()
    for end in range(0, len(body), 7):
        try:
            extract(body[:end], Engine.VLLM)
        except SignalError:
            continue


def test_timestamps_and_carriage_returns_are_tolerated() -> None:
    body = (
        b"vllm:num_requests_running 1 1700000000000\r\n"
        b"vllm:num_requests_waiting 2 1700000000000\r\n"
        b"vllm:kv_cache_usage_perc 0.5\r\n"
    )
    signals = extract(body, Engine.VLLM)
    assert (signals.running_requests, signals.waiting_requests) == (1, 2)
