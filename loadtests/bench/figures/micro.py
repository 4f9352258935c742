"""The parts of a decision alone, in this process: prompt to bytes, hash, match, rank, count.

Times are the median of several rounds on one core; memory is growth of the resident set.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from statistics import median

import numpy as np
import orjson

import policies.routing  # noqa: F401 - registers the built-in policies
from loadtests.bench import processes
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.rows import Row
from loadtests.bench.stats import percentile
from picker.flight.ledger import Ledger
from picker.flight.leg import Leg
from picker.prompt.blocks import hash_blocks
from picker.prompt.forms import Form, read_prompt
from picker.request.role import Role
from picker.state.cache.approximate import ApproximateIndex
from picker.state.endpoints import PoolState, Signals
from picker.state.spec import EndpointSpec
from policies.routing.spec import PolicySpec
from policies.routing.types import PoolView, RoutingRequest

ROUNDS = 7
SLOTS = 100
SLOT_TEXT_BYTES = 2_000_000
WORDS = ("prefill", "decode", "token", "gateway", "replica", "the", "of", "and", "a", "cache")

_HOW = f"in this process, median of {ROUNDS} rounds"


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
        index = ApproximateIndex(default_capacity_bytes=2 * size)
        for slot in range(SLOTS):
            index.sent(slot, blocks.chains)
        name = f"{size / 1000:g} kB chat"
        read_us = median_us(lambda body=body: read_prompt(Form.CHAT, body))  # type: ignore[misc]
        hash_us = median_us(lambda p=prompt: hash_blocks(p, model="m"))  # type: ignore[misc]
        match_us = median_us(lambda i=index, b=blocks: i.match(b, 1.0, SLOTS))  # type: ignore[misc]
        touch_us = median_us(lambda i=index, b=blocks: i.sent(0, b.chains))  # type: ignore[misc]
        yield Row(f"{name}: read the prompt", read_us, "us", _HOW)
        yield Row(f"{name}: hash", hash_us, "us", f"{len(blocks.chains[0])} blocks")
        yield Row(f"{name}: match", match_us, "us", f"all of {SLOTS} replicas hold it")
        yield Row(f"{name}: insert", touch_us, "us", "into a replica that holds it")
    ids = list(range(100_000))
    ids_us = median_us(lambda: read_prompt(Form.COMPLETIONS, {"prompt": ids}))
    yield Row("100k token ids: read the prompt", ids_us, "us", _HOW)


def rank_rows(rng: random.Random) -> Iterator[Row]:
    """The default profile over pools of several sizes."""
    policy = PolicySpec("auto").build()
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
        yield Row(f"rank {endpoints} replicas", rank_us, "us", "default profile")


def state_rows() -> Iterator[Row]:
    """Candidates, signals and the ledger with 1,000 endpoints and 20,000 requests in flight."""
    pool = PoolState("bench", stale_after_s=5)
    addresses = [f"10.0.{n // 250}.{n % 250}:8000" for n in range(1_000)]
    pool.sync([EndpointSpec(address) for address in addresses])
    signals = Signals(1, 2, 0.5, 100_000, 16, 0, frozenset(), frozenset())
    for address in addresses:
        pool.apply_signals(address, signals, 0.0)
    ledger = Ledger({"bench": pool})

    def send(id: str, address: str) -> Leg:  # noqa: A002 - the request's id
        leg = Leg(id, Role.BOTH, "bench", address, 1_000, 500, 300)
        ledger.open(leg, 0.0)
        return leg

    def send_and_end() -> None:
        ledger.close(send("probe", addresses[0]), ttft_s=0.1, now_s=0.0)

    for n in range(20_000):
        send(str(n), addresses[n % 1_000])
    apply_us = median_us(lambda: pool.apply_signals(addresses[0], signals, 1.0))
    candidates_us = median_us(lambda: pool.candidates(1.0))
    yield Row("candidates among 1,000 replicas", candidates_us, "us", _HOW)
    yield Row("take in the signals of one scrape", apply_us, "us", _HOW)
    send_us = median_us(send_and_end)
    yield Row("ledger: open and close", send_us, "us", "20,000 others in flight")


def full_index(prompt_bytes: int) -> tuple[int, int, list[float]]:
    """Fill an index twice over: 100 slots of 2 MB of text (500k tokens), all prompts different.

    Returns resident bytes, blocks, and sorted times of an insert in microseconds.
    """
    rng = random.Random(1)
    text = "x" * prompt_bytes
    blocks = hash_blocks(read_prompt(Form.COMPLETIONS, {"prompt": text}), model="m")
    gc.collect()
    before_bytes = processes.memory(os.getpid()).rss_bytes
    index = ApproximateIndex(default_capacity_bytes=SLOT_TEXT_BYTES)
    insert_us = []
    for _ in range(2 * SLOT_TEXT_BYTES // prompt_bytes):
        for slot in range(SLOTS):
            chain = [rng.getrandbits(60) for _ in blocks.chains[0]]
            started_s = time.perf_counter()
            index.sent(slot, [chain])
            insert_us.append((time.perf_counter() - started_s) * 1e6)
    return processes.memory(os.getpid()).rss_bytes - before_bytes, len(index), sorted(insert_us)


def memory_rows() -> Iterator[Row]:
    """Full indexes by prompt size, each in a process of its own."""
    for prompt_bytes in (3_000, 8_000, 100_000):
        with get_context("spawn").Pool(1) as pool:
            used_bytes, blocks, insert_us = pool.apply(full_index, (prompt_bytes,))
        name = f"full index of {prompt_bytes / 1000:g} kB prompts"
        yield Row(
            f"{name}: memory",
            used_bytes / 1e6,
            "MB",
            f"{SLOTS} replicas, {blocks:,} blocks of {used_bytes / blocks:.0f} B",
        )
        p50_us, p99_us = percentile(insert_us, 0.5), percentile(insert_us, 0.99)
        yield Row(
            f"{name}: insert and evict",
            p50_us,
            "us",
            f"median; p99 {p99_us:.0f} us, longest {insert_us[-1]:.0f} us",
        )


def _text(size: int, rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=size // 5))[:size]


def rows(effort: Effort) -> list[Row]:
    """All of them; memory only when there is time."""
    rng = random.Random(1)
    effort.say("parts of a decision")
    measured = [*prompt_rows(rng), *rank_rows(rng), *state_rows()]
    if not effort.quick:
        effort.say("full prefix indexes, in processes of their own")
        measured += memory_rows()
    return measured
