"""Metric names of each inference engine, and the load signals in a /metrics body.

Names: vLLM V1 ``vllm/v1/metrics/loggers.py``; SGLang ``observability/metrics_collector.py``;
TensorRT-LLM ``tensorrt_llm/metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from picker.signals.exposition import label_values, samples
from picker.state.endpoints import Signals


class Engine(StrEnum):
    """An inference engine, by its name in the configuration."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"
    OPENAI = "openai"
    """Any server that speaks OpenAI's API: it reports no load."""


class SignalError(ValueError):
    """A /metrics body that does not say what is needed.

    ``metric`` is the family at fault.
    """

    def __init__(self, metric: str, problem: str) -> None:
        super().__init__(f"{metric}: {problem}")
        self.metric = metric
        self.problem = problem


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """An info family that carries the size of the KV cache in labels."""

    family: bytes
    block_tokens: str
    blocks: str
    capacity_tokens: str | None = None
    """Label with the capacity itself; right where blocks x block size is not (hybrid models)."""


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Where an engine says what. Several names: the first one there counts."""

    waiting: bytes
    running: bytes
    kv_usage: tuple[bytes, ...]
    paths: tuple[str, ...] = ("/metrics",)
    """HTTP paths to try."""
    capacity_tokens: tuple[bytes, ...] = ()
    """Gauges of KV capacity, tokens; the largest counts (a host tier includes the device's)."""
    blocks: bytes | None = None
    block_tokens: bytes | None = None
    cache_info: CacheInfo | None = None
    lora_info: bytes | None = None
    first_tokens: bytes | None = None
    """Counter of requests that have had their first token. Not SGLang's: it counts an answer that
    does not stream at its 50th token or its end, and a prefill replica counts none."""


ENGINES: Mapping[Engine, EngineMetrics] = {
    Engine.VLLM: EngineMetrics(
        waiting=b"vllm:num_requests_waiting",
        running=b"vllm:num_requests_running",
        kv_usage=(b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc"),
        cache_info=CacheInfo(
            b"vllm:cache_config_info", "block_size", "num_gpu_blocks", "kv_cache_size_tokens"
        ),
        lora_info=b"vllm:lora_requests_info",
        first_tokens=b"vllm:time_to_first_token_seconds_count",
    ),
    Engine.SGLANG: EngineMetrics(
        waiting=b"sglang:num_queue_reqs",
        running=b"sglang:num_running_reqs",
        kv_usage=(b"sglang:token_usage",),
        paths=("/metrics", "/metrics/"),
        capacity_tokens=(b"sglang:max_total_num_tokens", b"sglang:hicache_host_total_tokens"),
        block_tokens=b"sglang:page_size",
        cache_info=CacheInfo(b"sglang:cache_config_info", "page_size", "num_pages"),
    ),
    Engine.TRTLLM: EngineMetrics(
        waiting=b"trtllm_num_requests_waiting",
        running=b"trtllm_num_requests_running",
        kv_usage=(b"trtllm_kv_cache_utilization",),
        paths=("/prometheus/metrics", "/prometheus/metrics/", "/metrics"),
        blocks=b"trtllm_kv_cache_max_blocks",
        block_tokens=b"trtllm_kv_cache_tokens_per_block",
    ),
}


def detect(body: bytes) -> Engine:
    """The engine whose metrics these are; raises SignalError when it is none we know."""
    for engine, metrics in ENGINES.items():
        if any(True for _ in samples(body, metrics.waiting)):
            return engine
    wanted = " or ".join(metrics.waiting.decode() for metrics in ENGINES.values())
    raise SignalError(wanted, "none of them is there, so the engine is not known")


def extract(body: bytes, engine: Engine) -> Signals:
    """The signals in a /metrics body.

    Requests are summed over the label sets of a metric (data-parallel ranks), KV usage is
    averaged, capacity is summed over engines. Raises SignalError naming the metric that is
    missing or no number.
    """
    metrics = ENGINES[engine]
    waiting = sum(_required(body, metrics.waiting))
    running = sum(_required(body, metrics.running))
    usages = next((u for name in metrics.kv_usage if (u := _numbers(body, name))), None)
    if usages is None:
        raise SignalError(metrics.kv_usage[0].decode(), "missing")
    capacity_tokens, block_tokens = _capacity(body, metrics)
    max_loras, running_adapters, waiting_adapters = _adapters(body, metrics)
    return Signals(
        waiting_requests=waiting,
        running_requests=running,
        kv_usage=min(1.0, sum(usages) / len(usages)),
        kv_capacity_tokens=capacity_tokens,
        kv_block_tokens=block_tokens,
        max_loras=max_loras,
        running_adapters=running_adapters,
        waiting_adapters=waiting_adapters,
        first_tokens=_first_tokens(body, metrics),
    )


def _first_tokens(body: bytes, metrics: EngineMetrics) -> float | None:
    if metrics.first_tokens is None:
        return None
    counts = _numbers(body, metrics.first_tokens)
    return sum(counts) if counts else None


def _numbers(body: bytes, family: bytes) -> list[float]:
    return [_number(family, value) for _, value in samples(body, family)]


def _required(body: bytes, family: bytes) -> list[float]:
    numbers = _numbers(body, family)
    if not numbers:
        raise SignalError(family.decode(), "missing")
    return numbers


def _number(family: bytes, text: bytes) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        shown = text[:40].decode("utf-8", "replace")
        raise SignalError(family.decode(), f"is {shown!r}, must be a number of at least 0")
    return number


def _capacity(body: bytes, metrics: EngineMetrics) -> tuple[float | None, int | None]:
    """(KV capacity in tokens, tokens of a block), each None when the engine does not say."""
    gauges = (sum(_numbers(body, name)) for name in metrics.capacity_tokens)
    capacity_tokens = max(gauges, default=0.0)
    blocks_tokens = _numbers(body, metrics.block_tokens) if metrics.block_tokens else []
    block_tokens = max(blocks_tokens, default=0.0)
    if not capacity_tokens and metrics.blocks:
        capacity_tokens = sum(_numbers(body, metrics.blocks)) * block_tokens
    info = metrics.cache_info
    if info is not None and not (capacity_tokens and block_tokens):
        by_engine = {}
        for labels, _ in samples(body, info.family):
            values = label_values(labels)
            by_engine[values.get("engine"), values.get("dp_rank")] = values
        told_tokens = 0
        for values in by_engine.values():
            told_block_tokens = _count(values.get(info.block_tokens))
            block_tokens = block_tokens or told_block_tokens
            told_tokens += (
                _count(values.get(info.capacity_tokens)) if info.capacity_tokens else 0
            ) or told_block_tokens * _count(values.get(info.blocks))
        capacity_tokens = capacity_tokens or told_tokens
    return capacity_tokens or None, int(block_tokens) or None


def _count(text: str | None) -> int:
    """A count in a label; engines write "None", "0" or nothing when they do not know: 0."""
    try:
        number = float(text or 0)
    except ValueError:
        return 0
    return int(number) if math.isfinite(number) and number > 0 else 0


def _adapters(body: bytes, metrics: EngineMetrics) -> tuple[int, frozenset[str], frozenset[str]]:
    """(adapters that fit, running, waiting). vLLM never takes a label set back: its value is the
    time it was true, so the newest one counts."""
    if metrics.lora_info is None:
        return 0, frozenset(), frozenset()
    newest_s, newest = -1.0, b""
    for labels, value in samples(body, metrics.lora_info):
        seen_s = _number(metrics.lora_info, value)
        if seen_s >= newest_s:
            newest_s, newest = seen_s, labels
    values = label_values(newest)
    return (
        _count(values.get("max_lora")),
        _names(values.get("running_lora_adapters", "")),
        _names(values.get("waiting_lora_adapters", "")),
    )


def _names(listed: str) -> frozenset[str]:
    return frozenset(name for part in listed.split(",") if (name := part.strip()))
