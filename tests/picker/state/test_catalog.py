"""Which model names lead where."""

from __future__ import annotations

import random

from picker.settings import PickerSettings, PoolSettings, RewriteRule, RewriteTarget
from picker.state.cache.exact import ExactIndex
from picker.state.catalog import Catalog, Occasion
from picker.state.endpoints import PoolState
from picker.state.models import ServedModel
from picker.state.pool import PoolRuntime
from picker.state.sessions import Sessions
from picker.state.spec import EndpointSpec
from tests.picker.fleet import policy


def pool(
    name: str, served: dict[str, list[ServedModel]], declared: tuple[str, ...] = ()
) -> PoolRuntime:
    state = PoolState(name, stale_after_s=5.0)
    state.sync(EndpointSpec(address) for address in served)
    for address, models in served.items():
        state.apply_models(address, models)
    settings = PoolSettings(name, policy(), models=declared)
    sessions = Sessions(max_sessions=9, ttl_s=9.0)
    return PoolRuntime(settings, state, ExactIndex(lambda: 0.0), sessions, profiles=())


def catalog(*pools: PoolRuntime, rules: tuple[RewriteRule, ...] = ()) -> Catalog:
    made = Catalog({one.name: one for one in pools}, random.Random(1))
    made.configure(PickerSettings(tuple(one.settings for one in pools), rewrites=rules))
    return made


NOW = Occasion(0.0)
BASE = ServedModel("base", None, 4096)
LORA = ServedModel("lora", "base", None)


def test_a_pool_with_a_live_replica_comes_first() -> None:
    first = pool("first", {"1.1.1.1:1": [BASE]})
    second = pool("second", {"2.2.2.2:1": [BASE]})
    made = catalog(first, second)
    found = made.serving("base", NOW)
    assert found is not None
    assert found.pool is first
    first.state.sync([])
    found = made.serving("base", NOW)
    assert found is not None
    assert found.pool is second
    second.state.sync([])
    found = made.serving("base", NOW)
    assert found is not None
    assert found.pool is first
    assert made.serving("base", NOW, pool="elsewhere") is None


def test_adapters_are_told_from_base_models() -> None:
    made = catalog(pool("p", {"1.1.1.1:1": [BASE, LORA]}, declared=("declared",)))
    kinds = {name: made.serving(name, NOW) for name in ("base", "lora", "declared", "none")}
    assert {name: place and place.is_adapter for name, place in kinds.items()} == {
        "base": False,
        "lora": True,
        "declared": False,
        "none": None,
    }


def test_a_name_that_is_served_needs_no_rule_and_the_generic_rule_takes_the_rest() -> None:
    generic = RewriteRule("*", (RewriteTarget("base"),))
    exact = RewriteRule("lora", (RewriteTarget("base"),))
    made = catalog(pool("p", {"1.1.1.1:1": [BASE, LORA]}), rules=(generic, exact))
    assert made.rewrite("base", NOW) == RewriteTarget("base")
    assert made.rewrite("lora", NOW) == RewriteTarget("base")
    assert made.rewrite("none", NOW) == made.rewrite(None, NOW) == RewriteTarget("base")
    without = catalog(pool("p", {"1.1.1.1:1": [BASE]}))
    assert without.rewrite("none", NOW) == RewriteTarget("none")
    assert without.rewrite(None, NOW) is None


def test_complete_when_every_pool_has_told_or_declared_its_models() -> None:
    told, silent = pool("told", {"1.1.1.1:1": [BASE]}), pool("silent", {"2.2.2.2:1": []})
    assert catalog(told).complete
    assert not catalog(told, silent).complete
    assert catalog(told, pool("declared", {}, declared=("x",))).complete


def test_the_list_has_every_name_once() -> None:
    rules = (
        RewriteRule("*", (RewriteTarget("base"),)),
        RewriteRule("alias", (RewriteTarget("base"),)),
        RewriteRule("base", (RewriteTarget("lora"),)),
    )
    one = pool("a", {"1.1.1.1:1": [BASE, LORA], "1.1.1.2:1": [BASE]}, declared=("base", "later"))
    made = catalog(one, pool("b", {"2.2.2.2:1": [BASE]}), rules=rules)
    listed = made.models()
    assert [entry.id for entry in listed] == ["base", "later", "lora", "alias"]
    by_id = {entry.id: entry for entry in listed}
    assert by_id["lora"].parent == "base"
    assert by_id["alias"].max_model_tokens == by_id["base"].max_model_tokens == 4096
    assert [name for name in ("alias", "lora", "later", "*", "none") if made.is_known(name)] == [
        "alias",
        "lora",
        "later",
    ]


def test_base_models_come_first_whatever_is_read_first() -> None:
    listed = [ServedModel(name, None, None) for name in ("z", "a")]
    tuned = [ServedModel(name, "z", None) for name in ("y", "b")]
    replicas = {f"1.1.1.{n}:1": [*tuned, *listed] for n in (1, 2)}
    rules = (RewriteRule("0-alias", (RewriteTarget("z"),)),)
    orders = []
    for addresses in (["1.1.1.1:1", "1.1.1.2:1"], ["1.1.1.2:1", "1.1.1.1:1"]):
        first = pool("first", {address: replicas[address] for address in addresses})
        second = pool("second", {"2.2.2.2:1": [ServedModel("m", None, None)]}, ("late",))
        orders.append([one.id for one in catalog(first, second, rules=rules).models()])
    assert orders[0] == orders[1] == ["z", "a", "late", "m", "y", "b", "0-alias"]


def test_an_alias_is_made_from_what_its_target_is() -> None:
    base = ServedModel("base", None, 4096, "org/base-8b", 1_700_000_000)
    rules = (
        RewriteRule("alias", (RewriteTarget("base"),)),
        RewriteRule("split", (RewriteTarget("base"), RewriteTarget("lora"))),
    )
    made = catalog(pool("p", {"1.1.1.1:1": [base, LORA]}), rules=rules)
    by_id = {one.id: one for one in made.models()}
    assert (by_id["base"].root, by_id["base"].created) == ("org/base-8b", 1_700_000_000)
    assert (by_id["lora"].root, by_id["lora"].parent) == ("lora", "base")
    assert (by_id["alias"].root, by_id["alias"].parent) == ("org/base-8b", None)
    assert (by_id["alias"].created, by_id["split"].root) == (1_700_000_000, "split")
