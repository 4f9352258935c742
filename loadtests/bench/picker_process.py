"""A picker over replicas that are only claimed, for what pickers cost each other.

Run as ``python -m loadtests.bench.picker_process --own PATH --endpoints N``: it listens to other
pickers until its standard input ends; each line there is answered with what it knows.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Final

import orjson
import uvloop

from loadtests.bench.prompts import MODEL
from picker.core import Parts, Picker
from picker.replication.local import LocalPeers
from picker.seams.peers import Alone, Peers
from picker.settings import PickerSettings, PoolSettings
from picker.state.endpoints import Signals
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec
from policies.routing.spec import PolicySpec

POOL: Final = "bench"
_TICK_S: Final = 0.25
_IDLE: Final = Signals(0, 0, 0.2, 400_000, 16, 0, frozenset(), frozenset())


def picker_of(name: str, endpoints: int, peers: Peers | None = None) -> Picker:
    """A picker with so many idle replicas, whose signals do not age."""
    parts = Parts(peers=peers or Alone())
    picker = Picker(name, parts, now=time.monotonic, rng=random.Random(name))
    policy = PolicySpec("auto")
    picker.configure(PickerSettings((PoolSettings(POOL, policy, queue=True),), stale_after_s=1e9))
    addresses = [f"10.0.{n // 250}.{n % 250}:8000" for n in range(endpoints)]
    picker.pools.sync_endpoints(POOL, map(EndpointSpec, addresses))
    now_s = picker.now()
    for address in addresses:
        picker.apply_signals(POOL, address, _IDLE, now_s)
        picker.apply_models(POOL, address, [ServedModel(MODEL, None, None)], now_s)
    return picker


def known(picker: Picker) -> dict[str, float]:
    """What it knows of all requests, its own and others': requests in flight, prefix blocks."""
    pool = picker.pools[POOL]
    return {
        "in_flight": float(pool.state.view.in_flight_requests.sum()),
        "blocks": len(pool.cache.approximate),
    }


async def tick(picker: Picker) -> None:
    """What a worker does a few times a second."""
    while True:
        await asyncio.sleep(_TICK_S)
        picker.flights.tick()


async def _serve(own: Path, endpoints: int) -> None:
    picker = picker_of("listener", endpoints)
    peers = LocalPeers(picker.id, own=own)
    peers.start(picker.flights)
    ticking = asyncio.create_task(tick(picker))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while await reader.readline():
        answer = {**known(picker), "unreadable": peers.unreadable}
        print(orjson.dumps(answer).decode(), flush=True)
    ticking.cancel()
    peers.stop()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A picker that listens to others.")
    parser.add_argument("--own", type=Path, required=True)
    parser.add_argument("--endpoints", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(_serve(given.own, given.endpoints))


if __name__ == "__main__":
    main()
