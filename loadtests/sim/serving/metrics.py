"""A replica's /metrics page with vLLM V1's names and labels (Prometheus text format 0.0.4)."""

from collections.abc import Mapping

from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.stats import EngineStats, Histogram

_FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
_TIERS = ("device", "host", "p2p", "disk", "external_unspecified")


def render(replica: SimulatedReplica) -> bytes:
    """The whole page."""
    engine, stats = replica.engine, replica.engine.stats
    page = _Page(f'engine="0",model_name="{_escaped(replica.base_model)}"')
    waiting, deferred = engine.waiting_requests, engine.deferred_requests
    page.gauge("num_requests_running", "Requests in the batch.", engine.running_requests)
    page.gauge("num_requests_waiting", "Requests in the queue.", waiting)
    page.labelled(
        "num_requests_waiting_by_reason",
        "Requests in the queue by reason.",
        "reason",
        {"capacity": waiting - deferred, "deferred": deferred},
        kind="gauge",
    )
    page.labelled(
        "engine_sleep_state",
        "Whether the engine is awake, and how it sleeps.",
        "sleep_state",
        replica.control.sleep_state(),
        kind="gauge",
    )
    page.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent.", engine.kv_usage)
    _tokens(page, stats)
    finished = {reason: stats.finished[reason] for reason in _FINISH_REASONS}
    page.labelled("request_success_total", "Finished requests.", "finished_reason", finished)
    _distributions(page, stats)
    _engine_info(page, replica)
    return page.text()


def _tokens(page: "_Page", stats: EngineStats) -> None:
    page.counter("prefix_cache_queries", "Tokens looked up.", stats.prefix_queries)
    page.counter("prefix_cache_hits", "Tokens found cached.", stats.prefix_hits)
    page.counter("num_preemptions", "Preempted requests.", stats.preemptions)
    page.counter("prompt_tokens", "Prefill tokens processed.", stats.prompt_tokens)
    page.labelled(
        "prompt_tokens_by_source_total",
        "Prompt tokens by where their KV came from.",
        "source",
        {
            "local_compute": stats.prompt_tokens - stats.cached_tokens,
            "local_cache_hit": stats.cached_tokens,
            "external_kv_transfer": 0,
        },
    )
    page.counter("prompt_tokens_cached", "Prompt tokens not computed.", stats.cached_tokens)
    page.labelled(
        "prompt_tokens_cached_by_source_total",
        "Tokens found cached, by the tier that had them.",
        "source",
        {tier: stats.prefix_hits if tier == "device" else 0 for tier in _TIERS},
    )
    page.counter("generation_tokens", "Tokens generated.", stats.generation_tokens)


def _distributions(page: "_Page", stats: EngineStats) -> None:
    for name, meaning, histogram in (
        ("request_prompt_tokens", "Of a prompt.", stats.request_prompt_tokens),
        ("request_generation_tokens", "Of an answer.", stats.request_generation_tokens),
        ("iteration_tokens_total", "Computed in a step.", stats.step_tokens),
        ("request_params_max_tokens", "Asked for.", stats.request_max_tokens),
        ("time_to_first_token_seconds", "TTFT.", stats.first_token_s),
        ("inter_token_latency_seconds", "Between tokens.", stats.between_tokens_s),
        ("request_time_per_output_token_seconds", "Mean TPOT.", stats.output_token_s),
        ("e2e_request_latency_seconds", "Arrival to last token.", stats.whole_s),
        ("request_queue_time_seconds", "Time in the queue.", stats.queue_s),
        ("request_inference_time_seconds", "Admission to last token.", stats.inference_s),
        ("request_prefill_time_seconds", "Admission to first token.", stats.prefill_s),
        ("request_decode_time_seconds", "First to last token.", stats.decode_s),
        ("request_num_preemptions", "Of a request.", stats.request_preemptions),
        (
            "request_prefill_kv_computed_tokens",
            "Of a prompt, not found cached.",
            stats.request_computed_tokens,
        ),
    ):
        page.histogram(name, meaning, histogram)


def _engine_info(page: "_Page", replica: SimulatedReplica) -> None:
    limits = replica.settings.engine.limits
    blocks = limits.num_blocks + 1  # vLLM also counts its placeholder, which holds nothing
    page.family("cache_config_info", "Information of the LLMEngine CacheConfig", "gauge")
    page.sample(
        "cache_config_info",
        f'block_size="{limits.block_size_tokens}",cache_dtype="auto"'
        f',enable_prefix_caching="{limits.prefix_caching}"'
        f',engine="0",kv_cache_size_tokens="{limits.num_blocks * limits.block_size_tokens}"'
        f',num_cpu_blocks="None",num_gpu_blocks="{blocks}"'
        ',num_gpu_blocks_override="None"'
        ',prefix_caching_hash_algo="xxhash"',
        1.0,
    )
    if limits.max_loras:
        page.family("lora_requests_info", "Running stats on lora requests.", "gauge")
        for (running, waiting), seen_s in replica.engine.stats.adapters_seen_s.items():
            page.sample(
                "lora_requests_info",
                f'max_lora="{limits.max_loras}",running_lora_adapters="{_escaped(running)}"'
                f',waiting_lora_adapters="{_escaped(waiting)}"',
                seen_s,
            )


def _escaped(value: str) -> str:
    """A label's value, escaped as the text format wants it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class _Page:
    def __init__(self, labels: str) -> None:
        self._labels = labels
        self._lines: list[str] = []

    def family(self, name: str, meaning: str, kind: str) -> None:
        self._lines.append(f"# HELP vllm:{name} {meaning}\n# TYPE vllm:{name} {kind}")

    def sample(self, name: str, labels: str, value: float) -> None:
        self._lines.append(f"vllm:{name}{{{labels}}} {float(value)!r}")

    def gauge(self, name: str, meaning: str, value: float) -> None:
        self.family(name, meaning, "gauge")
        self.sample(name, self._labels, value)

    def counter(self, name: str, meaning: str, value: float) -> None:
        self.family(f"{name}_total", meaning, "counter")
        self.sample(f"{name}_total", self._labels, value)

    def labelled(
        self,
        name: str,
        meaning: str,
        label: str,
        values: Mapping[str, float],
        *,
        kind: str = "counter",
    ) -> None:
        self.family(name, meaning, kind)
        for value, number in values.items():
            self.sample(name, f'{self._labels},{label}="{value}"', number)

    def histogram(self, name: str, meaning: str, histogram: Histogram) -> None:
        self.family(name, meaning, "histogram")
        total = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            total += count
            self.sample(f"{name}_bucket", f'{self._labels},le="{bound}"', total)
        self.sample(f"{name}_count", self._labels, total)
        self.sample(f"{name}_sum", self._labels, histogram.sum)

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()
