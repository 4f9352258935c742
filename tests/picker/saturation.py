"""A pool that is full: whatever comes waits in its queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from msgspec import structs

from picker.request.answer import Decision
from picker.request.head import RequestHead
from tests.picker.fleet import IDLE, Fleet, chat, decided, end_of

FULL = replace(IDLE, waiting_requests=9, running_requests=9, kv_usage=1.0)


async def fill(
    fleet: Fleet, request: RequestHead, replicas: Sequence[int] = (1, 2, 3)
) -> list[Decision]:
    """Two requests on each replica, which then report that they are full. Gives the requests."""
    taken: list[Decision] = []
    for number in replicas:
        where = frozenset({f"10.0.0.{number}:8000"})
        there = structs.replace(request, subset=where)
        taken += [await decided(fleet, chat(), there) for _ in range(2)]
        fleet.report(number, FULL)
    return taken


def empty(fleet: Fleet, taken: Sequence[Decision]) -> None:
    """Those requests end."""
    for decision in taken:
        fleet.picker.complete(end_of(decision))


async def until(condition: Callable[[], bool]) -> None:
    """It comes to be so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - many things may make it true
            await asyncio.sleep(0)


async def until_waiting(fleet: Fleet, requests: int = 1) -> None:
    """So many requests wait for a pool."""
    await until(lambda: fleet.picker.admission.waiting == requests)
