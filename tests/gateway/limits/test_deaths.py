"""A limit holds to the token while workers are killed."""

from __future__ import annotations

import pytest

from loadtests.lab.limits.judge import Slack, judge
from loadtests.lab.limits.rules import Rule
from policies.limits.types import TokenBucket
from tests.gateway.limits.deaths import Place
from tests.gateway.limits.redis import script_clock
from tests.redis_server import RedisServer

BUCKET = TokenBucket(600, 3_000, 60_000)
RULE = Rule("total_tokens", 3_000, 60.0, 600)


@pytest.mark.parametrize("seed", range(4))
async def test_a_death_lets_no_token_through(
    seed: int, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its requests held is held until another worker has charged what they used."""
    script_clock.install(redis_server, monkeypatch)
    history = await Place(redis_server, BUCKET, seed=seed).run(8)
    verdict = judge(history, [RULE], Slack(settle_s=0.1))
    assert not any(verdict.overshoot.values()), verdict
    assert (verdict.lost_tokens, verdict.doubled_tokens) == (0, 0), verdict
    assert verdict.admitted > 40, verdict
