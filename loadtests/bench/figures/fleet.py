"""What a hundred replicas cost without a request, and what the picker holds in memory for them."""

from __future__ import annotations

from loadtests.bench import processes
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape
from loadtests.bench.rows import Row, below
from loadtests.bench.stand import Stand
from loadtests.bench.upstream import (
    KV_BLOCK_TOKENS,
    KV_BLOCKS,
    METRICS_BYTES,
    TEXT_BYTES_PER_TOKEN,
)

REPLICAS = 100
_REPLICA_BYTES = KV_BLOCKS * KV_BLOCK_TOKENS * TEXT_BYTES_PER_TOKEN
_MB = 1e6
_IDLE_AIM_CORES = 0.1
_MEMORY_AIM_MB = 400.0


def idle(stand: Stand, effort: Effort) -> list[Row]:
    """CPU of each process while there are no requests."""
    seconds = effort.of(20.0, 4.0)
    effort.say("settling")
    stand.rest(effort.of(4.0, 2.5))  # for 2 s after a request, a replica is read more often
    effort.say(f"nothing to do for {seconds:g} s")
    scrapes = stand.scrapes()
    used_s = stand.rest(seconds)
    rate = (stand.scrapes() - scrapes) / seconds
    rows = []
    for name in ("picker", "supervisor", "envoy"):
        cores = used_s[name] / seconds
        aim, met = below(cores, _IDLE_AIM_CORES, "cores") if name == "picker" else ("", None)
        how = f"{seconds:g} s without requests"
        if name == "picker":
            how += f", {rate:.0f} reads/s of metrics pages of {METRICS_BYTES / 1000:g} kB"
        rows.append(
            Row(f"idle CPU with {REPLICAS} replicas, {name}", cores, "cores", how, aim=aim, met=met)
        )
    return rows


def memory(stand: Stand, effort: Effort) -> list[Row]:
    """The picker's memory when it believes every replica's cache to be full."""
    prompt_bytes = effort.of(8_000, 20_000)
    parts = 10
    # More than fits: prompts spread unevenly, and every replica must become full and evict.
    total_bytes = int(effort.of(1.8, 1.4) * REPLICAS * _REPLICA_BYTES)
    before = processes.memory(stand.pids["picker"])
    sizes_mb = []
    # Prompts share nothing: every block of every prompt is different.
    shape = PromptShape(prompt_bytes, shared=0.0)
    for part in range(parts):
        effort.say(f"filling the prefix index: {part} of {parts}")
        count = total_bytes // prompt_bytes // parts
        stand.load(shape, connections=32, requests=count)
        sizes_mb.append(processes.memory(stand.pids["picker"]).rss_bytes / _MB)
    after = processes.memory(stand.pids["picker"])
    least_bytes = min(stand.requests_by_replica()) * prompt_bytes
    aim, met = below(after.rss_bytes / _MB, _MEMORY_AIM_MB, "MB")
    return [
        Row(
            f"memory of the picker, {REPLICAS} replicas, full prefix index",
            after.rss_bytes / _MB,
            "MB",
            f"resident (PSS {after.pss_bytes / _MB:.0f}), {before.rss_bytes / _MB:.0f} before;"
            f" filled by real requests, {total_bytes / prompt_bytes:,.0f} different prompts of"
            f" {prompt_bytes / 1000:g} kB; each replica holds {_REPLICA_BYTES / _MB:.2f} MB of"
            f" text and was sent at least {least_bytes / _MB:.2f};"
            f" the last tenth added {sizes_mb[-1] - sizes_mb[-2]:+.0f} MB",
            aim=aim,
            met=met,
        )
    ]
