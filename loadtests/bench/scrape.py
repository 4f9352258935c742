"""What scraping costs: `python -m loadtests.bench.scrape --replicas 100`.

Real HTTP servers in another process serve vLLM-like /metrics bodies; the CPU time is this
process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import uvloop

from picker.signals.engines import Engine, extract
from picker.signals.scraper import Scraper
from picker.signals.settings import ScrapedPool, ScrapeSettings
from picker.state.endpoints import PoolState, Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.spec import EndpointSpec

_MODELS = b'{"object":"list","data":[{"id":"m","object":"model","parent":null}]}'


def vllm_body(kilobytes: int, *, busy: bool) -> bytes:
    """A /metrics body as large as asked for, with vLLM V1's order: gauges, histograms, info."""
    labels = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
    lines = []
    for name, value in (
        ("num_requests_running", 7.0 if busy else 0.0),
        ("num_requests_waiting", 3.0 if busy else 0.0),
        ("kv_cache_usage_perc", 0.25),
    ):
        lines += [f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} {value}"]
    size_bytes = sum(len(line) + 1 for line in lines)
    bucket = 0
    while size_bytes < kilobytes * 1000:
        family, le = divmod(bucket, 28)
        lines.append(f'vllm:time_{family}_seconds_bucket{{{labels},le="{2**le}"}} {bucket}.0')
        size_bytes += len(lines[-1]) + 1
        bucket += 1
    options = ",".join(f'option_{i}="None"' for i in range(30))
    lines.append(
        f'vllm:cache_config_info{{block_size="16",{options},num_gpu_blocks="27440"}} 1.0\n'
    )
    return "\n".join(lines).encode()


class _Replica(asyncio.Protocol):
    def __init__(self, metrics: bytes) -> None:
        self._metrics = metrics
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's, so a check would never be true
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        body = _MODELS if data.startswith(b"GET /v1/models") else self._metrics
        if self._transport is not None:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )


async def _serve(replicas: int, kilobytes: int, *, busy: bool) -> None:
    loop = asyncio.get_running_loop()
    body = vllm_body(kilobytes, busy=busy)
    servers = [
        await loop.create_server(lambda: _Replica(body), "127.0.0.1", 0) for _ in range(replicas)
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.get_running_loop().create_future()


class _Sink:
    def __init__(self, state: PoolState) -> None:
        self._state = state

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        self._state.apply_signals(address, signals, started_s)

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        self._state.apply_models(address, models)

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        self._state.apply_lack(address, lack, reason, started_s)

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        self._state.mark_failed(address, started_s, reason)
        print(f"{address}: {reason}", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class ScrapeCost:
    """CPU of scraping."""

    replicas: int
    body_bytes: int
    scrapes: int
    seconds: float
    cpu_s: float

    @property
    def cores(self) -> float:
        """CPU seconds per second."""
        return self.cpu_s / self.seconds

    @property
    def us_per_scrape(self) -> float:
        """CPU time of one scrape, everything included, microseconds."""
        return self.cpu_s / self.scrapes * 1e6


async def measure(
    replicas: int, kilobytes: int, settings: ScrapeSettings, *, seconds: float, busy: bool
) -> ScrapeCost:
    """Scrape that many replicas for a while; the servers are a child process."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtests.bench.scrape", "--serve",
        "--replicas", str(replicas), "--kilobytes", str(kilobytes), *(["--busy"] if busy else []),
        stdout=asyncio.subprocess.PIPE, limit=1 << 20,
    )  # fmt: skip
    scraper = Scraper(settings)
    try:
        if child.stdout is None:
            raise RuntimeError("no pipe to the servers")
        ports = (await child.stdout.readline()).split()
        addresses = [f"127.0.0.1:{port.decode()}" for port in ports]
        state = PoolState("pool", stale_after_s=5.0)
        state.sync(EndpointSpec(address) for address in addresses)
        scraper.start(_Sink(state))
        scraper.sync(ScrapedPool("pool"), addresses)
        await asyncio.sleep(2 * settings.idle_interval_s)
        before, cpu_s, start_s = scraper.stats.scrapes, time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        if scraper.stats.failures:
            raise RuntimeError(f"no figure, reads failed: {dict(scraper.stats.failures)}")
        cpu_s, took_s = time.process_time() - cpu_s, time.monotonic() - start_s
        return ScrapeCost(
            replicas,
            len(vllm_body(kilobytes, busy=busy)),
            scraper.stats.scrapes - before,
            took_s,
            cpu_s,
        )
    finally:
        await scraper.close()
        child.terminate()
        await child.wait()


def _extraction_us(kilobytes: int) -> float:
    body = vllm_body(kilobytes, busy=True)
    best_s = float("inf")
    for _ in range(10):
        start_s = time.perf_counter()
        for _ in range(100):
            extract(body, Engine.VLLM)
        best_s = min(best_s, (time.perf_counter() - start_s) / 100)
    return best_s * 1e6


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--kilobytes", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--busy", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(_serve(given.replicas, given.kilobytes, busy=given.busy))
        return
    print(f"extraction: {_extraction_us(given.kilobytes):.0f} us of {given.kilobytes} kB")
    replicas = int(given.replicas)
    for busy in (False, True):
        cost = uvloop.run(
            measure(replicas, given.kilobytes, ScrapeSettings(), seconds=given.seconds, busy=busy)
        )
        print(
            f"{replicas} replicas with{'' if busy else 'out'} requests: {cost.cores:.3f} cores, "
            f"{cost.scrapes / cost.seconds:.0f} scrapes/s, {cost.us_per_scrape:.0f} us CPU each "
            f"({cost.body_bytes} bytes)"
        )


if __name__ == "__main__":
    main()
