"""Replicas, a sink that remembers, and a scraper between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from picker.signals.scraper import Scraper
from picker.signals.settings import ScrapedPool, ScrapeSettings
from tests.picker.signals.replica import Heard, Replica, scraping, vllm_page


@pytest_asyncio.fixture
async def replica() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    started: list[Replica] = []

    async def start(**settings: object) -> Replica:
        new = Replica(**settings)  # type: ignore[arg-type]
        started.append(new)
        await new.start()
        return new

    yield start
    for each in started:
        await each.stop()


@pytest_asyncio.fixture
async def heard() -> Heard:
    return Heard()


@pytest_asyncio.fixture
async def scraper(heard: Heard) -> AsyncIterator[Scraper]:
    settings = ScrapeSettings(interval_s=0.02, idle_interval_s=0.05, timeout_s=0.3)
    async with scraping(heard, settings) as running:
        yield running


@pytest.fixture
def pool() -> ScrapedPool:
    return ScrapedPool("pool")


@pytest.fixture
def page() -> Callable[..., str]:
    return vllm_page
