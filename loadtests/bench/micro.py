"""Micro benchmarks of the decision path: prompt to bytes, hash, match, rank, count; and memory.

Run as ``python -m loadtests.bench.micro``. Times are the median of several rounds, in
microseconds of one core; memory is resident set growth.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from statistics import median

import numpy as np
import orjson
import psutil
from rich.console import Console
from rich.table import Table

import policies.routing  # noqa: F401 - registers the built-in policies
from picker.prompt.blocks import hash_blocks
from picker.prompt.forms import Form, read_prompt
from picker.state.endpoints import EndpointSpec, PoolState, Signals
from picker.state.ledger import Ledger
from picker.state.prefix import PrefixIndex
from policies.registry import build
from policies.routing.types import PoolView, RoutingPolicy, RoutingRequest
from policies.routing.weighted import DEFAULT_PROFILE

ROUNDS = 7
SLOTS = 100
SLOT_TEXT_BYTES = 2_000_000
WORDS = ("prefill", "decode", "token", "gateway", "replica", "the", "of", "and", "a", "cache")

Row = tuple[str, str]


def median_us(work: Callable[[], object], *, seconds: float = 0.05) -> float:
    """Median time of one call over rounds of about ``seconds`` each."""
    work()
    started_s = time.perf_counter()
    work()
    repeat = max(1, int(seconds / max(1e-7, time.perf_counter() - started_s)))
    rounds_s = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        for _ in range(repeat):
            work()
        rounds_s.append((time.perf_counter() - started_s) / repeat)
    return median(rounds_s) * 1e6


def chat_body(text_bytes: int, messages: int, rng: random.Random) -> dict[str, object]:
    """A parsed chat request of about ``text_bytes`` in so many messages."""
    turns = [
        {"role": "assistant" if n % 2 else "user", "content": _text(text_bytes // messages, rng)}
        for n in range(messages)
    ]
    body: dict[str, object] = orjson.loads(orjson.dumps({"model": "m", "messages": turns}))
    return body


def prompt_rows(rng: random.Random) -> Iterator[Row]:
    """Forms, block hashes, index match and insert by prompt size, with every slot holding it."""
    for size, messages in ((500, 2), (20_000, 10), (400_000, 40), (4_000_000, 40)):
        body = chat_body(size, messages, rng)
        prompt = read_prompt(Form.CHAT, body)
        blocks = hash_blocks(prompt, model="m")
        index = PrefixIndex(default_capacity_bytes=2 * size)
        for slot in range(SLOTS):
            index.insert(slot, blocks.chains)
        name = f"{size / 1000:g} kB chat"
        forms_us = median_us(lambda body=body: read_prompt(Form.CHAT, body))  # type: ignore[misc]
        blocks_us = median_us(lambda p=prompt: hash_blocks(p, model="m"))  # type: ignore[misc]
        match_us = median_us(lambda i=index, b=blocks: i.match(b.chains, SLOTS))  # type: ignore[misc]
        touch_us = median_us(lambda i=index, b=blocks: i.insert(0, b.chains))  # type: ignore[misc]
        yield f"{name}: forms + blocks", f"{forms_us:.1f} + {blocks_us:.1f} us"
        yield f"{name}: match {SLOTS} slots", f"{match_us:.1f} us ({len(blocks.chains[0])} blocks)"
        yield f"{name}: insert, known blocks", f"{touch_us:.1f} us"
    ids = list(range(100_000))
    ids_us = median_us(lambda: read_prompt(Form.COMPLETIONS, {"prompt": ids}))
    yield "100k token ids: forms", f"{ids_us:.1f} us"


def rank_rows(rng: random.Random) -> Iterator[Row]:
    """The default profile over pools of several sizes."""
    policy = build("policy", "weighted", DEFAULT_PROFILE)
    assert isinstance(policy, RoutingPolicy)
    for endpoints in (3, 100, 1_000):
        pool = PoolView.zeros(endpoints)
        values = np.random.default_rng(1)
        pool.waiting_requests[:] = values.integers(0, 5, endpoints)
        pool.kv_usage[:] = values.random(endpoints)
        pool.in_flight_kv_tokens[:] = values.integers(0, 50_000, endpoints)
        pool.kv_capacity_tokens[:] = values.integers(400_000, 500_000, endpoints)
        request = RoutingRequest(1_000, 100, values.random(endpoints) * 1_000)
        slots = np.arange(endpoints)
        rank_us = median_us(
            lambda p=pool, r=request, s=slots: policy.rank(r, p, s, 3, 0.0, rng)  # type: ignore[misc]
        )
        yield f"rank {endpoints} endpoints, default profile", f"{rank_us:.1f} us"


def state_rows() -> Iterator[Row]:
    """Candidates, signals and the ledger with 1,000 endpoints and 20,000 requests in flight."""
    pool = PoolState("bench", stale_after_s=5)
    addresses = [f"10.0.{n // 250}.{n % 250}:8000" for n in range(1_000)]
    pool.sync([EndpointSpec(address) for address in addresses])
    signals = Signals(1, 2, 0.5, 100_000, 16, 0, frozenset(), frozenset())
    for address in addresses:
        pool.apply_signals(address, signals, 0.0)
    ledger = Ledger({"bench": pool})

    def send(id: str, address: str) -> None:  # noqa: A002 - the request's id
        ledger.open(
            id,
            pool="bench",
            address=address,
            prompt_tokens=1_000,
            uncached_tokens=500,
            output_tokens=300,
            now_s=0.0,
            lease_s=600,
        )

    def send_and_end() -> None:
        send("probe", addresses[0])
        ledger.close("probe", ttft_s=0.1, now_s=0.0)

    for n in range(20_000):
        send(str(n), addresses[n % 1_000])
    apply_us = median_us(lambda: pool.apply_signals(addresses[0], signals, 1.0))
    yield "candidates of 1,000 endpoints", f"{median_us(lambda: pool.candidates(1.0)):.1f} us"
    yield "apply signals of one scrape", f"{apply_us:.1f} us"
    yield "ledger open + close with TTFT", f"{median_us(send_and_end):.1f} us"


def full_index(prompt_bytes: int) -> tuple[int, int, list[float]]:
    """Fill an index twice over: 100 slots of 2 MB of text (500k tokens), all prompts different.

    Returns resident bytes, blocks, and sorted times of an insert in microseconds.
    """
    rng = random.Random(1)
    process = psutil.Process()
    text = "x" * prompt_bytes
    blocks = hash_blocks(read_prompt(Form.COMPLETIONS, {"prompt": text}), model="m")
    gc.collect()
    before_bytes = process.memory_info().rss
    index = PrefixIndex(default_capacity_bytes=SLOT_TEXT_BYTES)
    insert_us = []
    for _ in range(2 * SLOT_TEXT_BYTES // prompt_bytes):
        for slot in range(SLOTS):
            chain = [rng.getrandbits(60) for _ in blocks.chains[0]]
            started_s = time.perf_counter()
            index.insert(slot, [chain])
            insert_us.append((time.perf_counter() - started_s) * 1e6)
    return process.memory_info().rss - before_bytes, len(index), sorted(insert_us)


def memory_rows() -> Iterator[Row]:
    """Full indexes by prompt size, each in a process of its own."""
    for prompt_bytes in (3_000, 8_000, 100_000):
        with get_context("spawn").Pool(1) as pool:
            used_bytes, blocks, insert_us = pool.apply(full_index, (prompt_bytes,))
        yield (
            f"full index, prompts of {prompt_bytes / 1000:g} kB",
            f"{used_bytes / 1e6:.0f} MB, {blocks:,} blocks, {used_bytes / blocks:.0f} B each",
        )
        p50_us, p99_us = insert_us[len(insert_us) // 2], insert_us[len(insert_us) * 99 // 100]
        yield (
            "  insert of new blocks with eviction",
            f"p50 {p50_us:.1f} us, p99 {p99_us:.0f} us, max {insert_us[-1]:.0f} us",
        )


def _text(size: int, rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=size // 5))[:size]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-memory", action="store_true", help="leave out the full index")
    skip_memory = bool(parser.parse_args().skip_memory)
    rng = random.Random(1)
    table = Table("what", "measured")
    for row in (*prompt_rows(rng), *rank_rows(rng), *state_rows()):
        table.add_row(*row)
    if not skip_memory:
        for row in memory_rows():
            table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
