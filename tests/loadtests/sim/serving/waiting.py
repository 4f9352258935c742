"""Waiting for what must come, but not for ever."""

import asyncio
from collections.abc import Awaitable, Callable

LIMIT_S = 20.0
"""Far more than anything here takes: reaching it is a failure."""


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again. Raises TimeoutError after LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not await check():  # noqa: ASYNC110 - there is nothing to be told by
            await asyncio.sleep(0)
