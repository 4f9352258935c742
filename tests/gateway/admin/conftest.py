"""The admin API of a supervisor without tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiohttp import ClientSession

from gateway.admin.api import application
from tests.gateway.admin.source import OPEN, NoTenants, Source, serve


@pytest_asyncio.fixture
async def source() -> Source:
    return Source()


@pytest_asyncio.fixture
async def client(source: Source, tmp_path: Path) -> AsyncIterator[ClientSession]:
    async for each in serve(application(source, NoTenants(), OPEN, tmp_path)):
        yield each
