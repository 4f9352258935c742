"""A running Penstock for commands."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.gateway.admin.place import place
from tests.gateway.commands.terminal import Terminal


@pytest.fixture
async def penstock() -> AsyncIterator[Terminal]:
    async with place() as (made, url):
        yield Terminal(made, url)
