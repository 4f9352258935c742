"""A worker that reads replicas together with others, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from picker.replication.local import LocalPeers
from picker.signals.scraper import Scraper
from picker.signals.settings import ScrapedPool, ScrapeSettings
from tests.picker.fleet import fleet
from tests.picker.signals.replica import Heard


async def main(own: str, others: list[str], addresses: list[str]) -> None:
    heard = Heard()
    peers = LocalPeers(own, own=Path(own), others=[Path(other) for other in others])
    settings = ScrapeSettings(interval_s=0.05, idle_interval_s=0.1, timeout_s=0.5)
    scraper = Scraper(settings, sharing=peers.readings)
    peers.start(fleet().picker.flights)
    scraper.start(heard)
    scraper.sync(ScrapedPool("pool"), addresses)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        newest_s = {
            address: at_s for (address, _), at_s in zip(heard.signals, heard.started_s, strict=True)
        }
        answer = {
            "oldest_s": time.monotonic() - min(newest_s.get(one, 0.0) for one in addresses),
            "heard": len(heard.signals),
            "scrapes": scraper.stats.scrapes,
            "failed": len(heard.failed),
            "members": len(peers.readings.members),
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await scraper.close()
    peers.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2].split(), sys.argv[3].split()))
