"""A stream that its client leaves is charged the prompt as the engine counts it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from picker.flight.recount import Recount
from picker.prompt.forms import Prompt
from policies.limits.prices import Usage
from tests.picker.accounts import Accounts
from tests.picker.fleet import POOL, Fleet, chat, decided, end_of, fleet


@dataclass
class Engine:
    """Says so many tokens, once it may."""

    count: int | None = 5_000
    able: bool = True
    may: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    def can_count(self, pool: str) -> bool:
        return self.able and pool == POOL

    async def tokens(
        self, pool: str, address: str, model: str, texts: Sequence[bytes]
    ) -> int | None:
        self.asked += 1
        assert b"".join(texts)
        await self.may.wait()
        return self.count


LEFT: dict[str, object] = {
    "reason": "client_aborted",
    "input_tokens": None,
    "output_tokens": None,
    "streamed_events": 1,
}
LINES = "=" * 40_000
"""At four bytes a token, twice as many tokens as there are."""


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


def made_with(engine: Engine, accounts: Accounts) -> Fleet:
    return fleet(limiter=accounts, engine_counts=engine)


async def test_a_client_that_leaves_after_the_first_token(accounts: Accounts) -> None:
    engine = Engine()
    made = made_with(engine, accounts)
    decision = await decided(made, chat(LINES, stream=True))
    end = end_of(decision, "p0", **LEFT)
    made.picker.complete(end)
    made.picker.complete(end)
    await asyncio.sleep(0)
    assert (engine.asked, accounts.settled) == (1, [])
    engine.may.set()
    await made.picker.flights.counted()
    assert accounts.settled == [Usage(5_000, 1)]
    assert made.is_settled
    (done,) = made.seen.completions
    assert (done.input_tokens, done.usage_reported) == (5_000, False)
    made.picker.complete(end)
    assert len(accounts.settled) == 1


@pytest.mark.parametrize("able", [True, False])
async def test_without_an_answer_the_estimate_counts(accounts: Accounts, able: bool) -> None:
    engine = Engine(count=None, able=able)
    engine.may.set()
    made = made_with(engine, accounts)
    decision = await decided(made, chat(LINES, stream=True))
    made.picker.complete(end_of(decision, "p0", **LEFT))
    await made.picker.flights.counted()
    (usage,) = accounts.settled
    assert 10_000 <= usage.input_tokens < 10_100


async def test_the_prompt_of_a_client_that_left_before_the_first_token_is_counted(
    accounts: Accounts,
) -> None:
    engine = Engine()
    engine.may.set()
    made = made_with(engine, accounts)
    decision = await decided(made, chat(LINES, stream=True))
    made.picker.complete(end_of(decision, "p0", **{**LEFT, "streamed_events": 0}))
    await made.picker.flights.counted()
    assert accounts.settled == [Usage(5_000, 0)]


@pytest.mark.parametrize(
    ("changes", "charged"),
    [
        ({}, Usage(10, 5)),
        ({**LEFT, "input_tokens": 9}, Usage(9, 1)),
        ({**LEFT, "streamed_events": 0, "reason": "engine_error"}, None),
    ],
)
async def test_what_is_no_guess_is_not_counted(
    accounts: Accounts, changes: dict[str, object], charged: Usage | None
) -> None:
    engine = Engine()
    made = made_with(engine, accounts)
    decision = await decided(made, chat(stream=True))
    made.picker.complete(end_of(decision, "p0", **changes))
    assert engine.asked == 0
    assert accounts.settled == ([] if charged is None else [charged])
    assert made.is_settled


async def test_the_proxy_may_restart_meanwhile(accounts: Accounts) -> None:
    engine = Engine()
    made = made_with(engine, accounts)
    decision = await decided(made, chat(stream=True))
    made.picker.complete(end_of(decision, "p0", **LEFT))
    made.picker.flights.proxy_restarted()
    engine.may.set()
    await made.picker.flights.counted()
    assert len(accounts.settled) + accounts.released == 1
    assert made.is_settled


async def test_what_is_kept_is_bounded_and_dropped() -> None:
    recount = Recount(Engine(), most_bytes=100)
    recount.keep("a", POOL, Prompt((b"x" * 60,), 1, 0))
    recount.keep("b", POOL, Prompt((b"x" * 60,), 1, 0))
    recount.keep(
        "c",
        POOL,
        Prompt(
            (
                b"x" * 20,
                b"x" * 20,
            ),
            1,
            0,
        ),
    )
    recount.keep("d", "elsewhere", Prompt((b"x",), 1, 0))
    assert recount.kept_bytes == 100
    assert not recount.count("b", "", "", lambda _: None)
    for one in "abcd":
        recount.drop(one)
    assert recount.kept_bytes == 0
