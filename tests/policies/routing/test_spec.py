"""From a spec to a policy."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest

from policies import registry
from policies.registry import PolicyError
from policies.routing.spec import PolicySpec
from policies.routing.types import Observation, PoolView, Ranking, RoutingRequest, Slots
from policies.routing.weighted import DEFAULT_PROFILE
from tests.policies.routing.pools import everyone, pool_of, request_for
from tests.policies.routing.test_types import observed


@pytest.fixture(autouse=True)
def _own_registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def test_specs_compare_by_value_and_build_a_new_policy_each_time() -> None:
    spec, same = (
        PolicySpec("weighted", DEFAULT_PROFILE),
        PolicySpec("weighted", {**DEFAULT_PROFILE}),
    )
    assert spec == same
    assert len({spec, same, PolicySpec("weighted", {"scorers": []}), PolicySpec("random")}) == 3
    assert spec.build() is not spec.build()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PolicySpec("best"), "unknown policy 'best': use one of aibrix-prefix-cache"),
        (PolicySpec("dynamo", {"overlap": 1}), "policy 'dynamo': unknown parameter 'overlap'"),
        (PolicySpec("rankless"), r"policy 'rankless' has no rank\(\) method"),
    ],
)
def test_what_cannot_be_built_is_a_policy_error(spec: PolicySpec, message: str) -> None:
    registry.register("policy", "rankless")(lambda: object())
    with pytest.raises(PolicyError, match=message):
        spec.build()


class OldPlugin:
    """As plugins were written when a policy had two methods."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def rank(
        self,
        request: RoutingRequest,
        pool: PoolView,
        candidates: Slots,
        count: int,
        now_s: float,
        rng: random.Random,
    ) -> Ranking:
        return Ranking(candidates[:count], np.zeros(min(count, candidates.size)))

    def observe(self, observation: Observation, now_s: float) -> None:
        self.seen.append(observation)


class Remembering(OldPlugin):
    """As plugins may be written now, without inheriting anything."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Mapping[str, object] = {"seconds": 1.5}

    def snapshot(self) -> Mapping[str, object]:
        return self.kept

    def restore(self, snapshot: Mapping[str, object]) -> None:
        self.kept = snapshot


def test_methods_that_a_plugin_lacks_do_nothing() -> None:
    plugin = OldPlugin()
    registry.register("policy", "old")(lambda: plugin)
    policy, pool = PolicySpec("old").build(), pool_of((0, 0), (0, 0))
    ranking = policy.rank(request_for(pool), pool, everyone(pool), 2, 0.0, random.Random(1))
    assert ranking.slots.tolist() == [0, 1]
    policy.observe(observed(cached_tokens=None), 1.0)
    assert len(plugin.seen) == 1
    policy.reset(0)
    policy.restore({"seconds": 2.5})
    assert policy.snapshot() == {}


def test_methods_that_a_plugin_has_are_called() -> None:
    registry.register("policy", "remembering")(Remembering)
    policy = PolicySpec("remembering").build()
    assert policy.snapshot() == {"seconds": 1.5}
    policy.restore({"seconds": 2.5})
    assert policy.snapshot() == {"seconds": 2.5}
