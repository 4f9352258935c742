"""Streams that break off, of an engine that puts several tokens into a chunk."""

from __future__ import annotations

from tests.picker.accounts import Accounts
from tests.picker.fleet import chat, decided, end_of, fleet


async def test_it_is_charged_for_what_chunks_have_held_lately() -> None:
    accounts = Accounts()
    one = fleet(limiter=accounts)
    for _ in range(300):
        done = end_of(await decided(one, chat()), output_tokens=201, streamed_events=100)
        one.picker.complete(done)
    accounts.clear()
    broken = end_of(
        await decided(one, chat()),
        reason="client_aborted",
        input_tokens=None,
        output_tokens=None,
        streamed_events=30,
    )
    one.picker.complete(broken)
    (usage,) = accounts.settled
    assert abs(usage.output_tokens - 60) <= 1
