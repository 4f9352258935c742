"""A replica's /metrics page with vLLM V1's names and labels (Prometheus text format 0.0.4)."""

from loadtests.sim.replica import Replica
from loadtests.sim.stats import Histogram

_FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


def render(replica: Replica) -> bytes:
    """The page."""
    engine, stats = replica.engine, replica.engine.stats
    labels = f'engine="0",model_name="{replica.base_model}"'
    page = _Page(labels)
    page.gauge("num_requests_running", "Requests in the batch.", engine.running_requests)
    page.gauge("num_requests_waiting", "Requests in the queue.", engine.waiting_requests)
    page.family("num_requests_waiting_by_reason", "Requests in the queue by reason.", "gauge")
    for cause, queued in (("capacity", engine.waiting_requests), ("deferred", 0)):
        page.sample("num_requests_waiting_by_reason", f'{labels},reason="{cause}"', queued)
    page.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent.", engine.kv_usage)
    page.counter("prefix_cache_queries", "Tokens looked up.", stats.prefix_queries)
    page.counter("prefix_cache_hits", "Tokens found cached.", stats.prefix_hits)
    page.counter("num_preemptions", "Preempted requests.", stats.preemptions)
    page.counter("prompt_tokens", "Prefill tokens processed.", stats.prompt_tokens)
    page.counter("prompt_tokens_cached", "Prompt tokens found cached.", stats.prefix_hits)
    page.counter("generation_tokens", "Tokens generated.", stats.generation_tokens)
    page.family("request_success_total", "Finished requests.", "counter")
    for reason in _FINISH_REASONS:
        page.sample(
            "request_success_total",
            f'{labels},finished_reason="{reason}"',
            stats.finished[reason],
        )
    page.histogram("time_to_first_token_seconds", "TTFT.", stats.ttft_s)
    page.histogram("request_time_per_output_token_seconds", "Mean TPOT.", stats.tpot_s)
    page.histogram("e2e_request_latency_seconds", "Arrival to last token.", stats.e2e_s)
    page.histogram("request_queue_time_seconds", "Time in the queue.", stats.queue_s)
    settings = engine.settings
    page.family("cache_config_info", "Information of the LLMEngine CacheConfig", "gauge")
    page.sample(
        "cache_config_info",
        f'block_size="{settings.block_size_tokens}",cache_dtype="auto",enable_prefix_caching="True"'
        f',engine="0",kv_cache_size_tokens="{settings.num_blocks * settings.block_size_tokens}"'
        f',num_cpu_blocks="None",num_gpu_blocks="{settings.num_blocks}"'
        ',num_gpu_blocks_override="None"'
        ',prefix_caching_hash_algo="xxhash"',
        1.0,
    )
    if settings.max_loras:
        page.family("lora_requests_info", "Running stats on lora requests.", "gauge")
        for (running, waiting), seen_s in stats.adapters_seen_s.items():
            page.sample(
                "lora_requests_info",
                f'max_lora="{settings.max_loras}",running_lora_adapters="{running}"'
                f',waiting_lora_adapters="{waiting}"',
                seen_s,
            )
    return page.text()


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
