"""A replica that does not report its load gets its share: neither everything nor nothing."""

from __future__ import annotations

from collections import Counter

import pytest

import policies.routing  # noqa: F401 - registers the built-in policies
from picker.settings import PickerSettings, PoolSettings
from picker.state.lack import Lack
from policies import registry
from policies.routing.spec import PolicySpec
from policies.routing.weighted import DEFAULT_PROFILE
from tests.picker.fleet import POOL, address, chat, decided, end_of, fleet, load

POLICIES = sorted(set(registry.names("policy")) - {"weighted", "session-hash"})
"""Those that need nothing to be built and do not keep to a session."""
ROUNDS = 120


@pytest.mark.parametrize("name", ["weighted", *POLICIES])
@pytest.mark.parametrize("reporting", [0, 2])
async def test_it_gets_its_share_under_every_policy(name: str, reporting: int) -> None:
    made = fleet()
    params = DEFAULT_PROFILE if name == "weighted" else {}
    made.picker.configure(PickerSettings((PoolSettings(POOL, PolicySpec(name, params)),)))
    for number in range(1, reporting + 1):
        made.report(number, load(waiting=4, kv_usage=0.6))
    for number in range(reporting + 1, 4):
        made.picker.mark_failed(POOL, address(number), "was away", made.clock.now_s)
        made.clock.now_s += 0.01
        made.picker.apply_lack(POOL, address(number), Lack.SIGNALS, "no page", made.clock.now_s)
    chosen: Counter[str] = Counter()
    waiting = []
    for number in range(ROUNDS):
        decision = await decided(made, chat(f"{number} " * 60))
        chosen[decision.addresses[0]] += 1
        waiting.append(decision)
        if len(waiting) > 6:
            made.picker.complete(end_of(waiting.pop(0)))
    assert ROUNDS * 0.1 < chosen[address(3)] < ROUNDS * 0.7, chosen
