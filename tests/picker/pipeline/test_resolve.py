"""The model asked for to the model served, its adapter and its pool."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from msgspec.structs import replace

from picker.pipeline.resolve import Resolve
from picker.request.context import RequestContext
from picker.request.rejection import Reason
from picker.settings import PickerSettings, PoolSettings, RewriteRule, RewriteTarget
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.spec import EndpointChanges, EndpointSpec
from tests.picker.fleet import IDLE, MODEL, POOL, Fleet, address, fleet, policy
from tests.picker.pipeline.steps import begun, parsed, refusal, take

LORA = "lora"


@pytest.fixture
def made() -> Fleet:
    one = fleet(models=(MODEL, LORA))
    one.configure(
        rewrites=[
            RewriteRule("alias", (RewriteTarget(LORA),)),
            RewriteRule("dead", (RewriteTarget("gone"),)),
        ]
    )
    return one


async def resolved(made: Fleet, context: RequestContext) -> RequestContext:
    await take(Resolve(made.picker.catalog, made.clock), context)
    return context


@pytest.mark.parametrize(
    ("asked", "served", "adapter"),
    [(MODEL, MODEL, ""), (LORA, LORA, LORA), ("alias", LORA, LORA)],
)
async def test_a_name_leads_to_model_adapter_and_pool(
    made: Fleet, asked: str, served: str, adapter: str
) -> None:
    context = await resolved(made, await parsed({"model": asked, "prompt": "x"}))
    assert (context.served_model, context.adapter, context.pool) == (served, adapter, POOL)
    assert (context.asked_model, context.billed_model) == (asked, asked)


async def test_a_header_comes_first_and_is_billed_as_what_it_leads_to(made: Fleet) -> None:
    rewrite = {"x_llm_d_model_name_rewrite": MODEL, "x_gateway_model_name_rewrite": LORA}
    context = await resolved(made, await parsed({"model": "alias", "prompt": "x"}, **rewrite))
    assert (context.served_model, context.billed_model) == (MODEL, MODEL)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"model": "unheard-of", "prompt": "x"}, Reason.MODEL_NOT_FOUND),
        ({"prompt": "x"}, Reason.MISSING_MODEL),
        ({"model": "dead", "prompt": "x"}, Reason.NO_ENDPOINTS),
    ],
)
async def test_what_leads_nowhere(made: Fleet, body: dict[str, object], reason: Reason) -> None:
    await refusal(Resolve(made.picker.catalog, made.clock), await parsed(body), reason)


@pytest.mark.parametrize("path", ["/v1/completions", "/somewhere"])
async def test_a_header_that_leads_nowhere_is_final(made: Fleet, path: str) -> None:
    context = await parsed(path=path, x_llm_d_model_name_rewrite="unheard-of")
    await refusal(Resolve(made.picker.catalog, made.clock), context, Reason.MODEL_NOT_FOUND)


@pytest.mark.parametrize("path", ["/v1/completions", "/generate", "/encode"])
@pytest.mark.parametrize("given", [LORA, [LORA], [LORA, LORA]])
async def test_lora_path_names_what_is_served_and_paid_for(
    made: Fleet, path: str, given: object
) -> None:
    body = {"model": MODEL, "prompt": "x", "text": "x", "lora_path": given}
    rewrite = {"x_llm_d_model_name_rewrite": MODEL}
    context = await resolved(made, await parsed(body, path, **rewrite))
    assert (context.served_model, context.adapter, context.pool) == (LORA, LORA, POOL)
    assert (context.asked_model, context.billed_model) == (MODEL, LORA)


@pytest.mark.parametrize("given", [None, "", [], [None], ["", None]])
async def test_no_lora_path_is_the_base_model(made: Fleet, given: object) -> None:
    body = {"model": MODEL, "prompt": "x", "lora_path": given}
    context = await resolved(made, await parsed(body))
    assert (context.served_model, context.adapter, context.billed_model) == (MODEL, "", MODEL)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("unheard-of", Reason.MODEL_NOT_FOUND),
        ([LORA, MODEL], Reason.INVALID_REQUEST),
        ([None, LORA], Reason.INVALID_REQUEST),
    ],
)
async def test_what_lora_path_leads_nowhere(made: Fleet, given: object, reason: Reason) -> None:
    context = await parsed({"model": MODEL, "prompt": "x", "lora_path": given})
    await refusal(Resolve(made.picker.catalog, made.clock), context, reason)


async def test_the_list_of_models_is_answered_here(made: Fleet) -> None:
    context = await resolved(made, begun("/v1/models", "GET"))
    assert context.answer is not None
    names = [model["id"] for model in orjson.loads(context.answer.body)["data"]]
    assert names == [MODEL, LORA, "alias", "dead"]
    one = await resolved(made, begun(f"/v1/models/{LORA}", "GET"))
    assert one.answer is not None
    assert orjson.loads(one.answer.body)["parent"] == MODEL
    missing = begun("/v1/models/none", "GET")
    await refusal(Resolve(made.picker.catalog, made.clock), missing, Reason.MODEL_NOT_FOUND)


async def test_why_a_model_is_not_known_is_said(made: Fleet) -> None:
    made.picker.configure(PickerSettings((PoolSettings("other", policy()),)))
    resolve = Resolve(made.picker.catalog, made.clock)
    unreached = await refusal(resolve, await parsed(), Reason.NO_ENDPOINTS)
    assert "no replica has been reached" in unreached.message
    made.picker.apply_endpoints(EndpointChanges("other", (EndpointSpec(address(9)),)))
    problem = "GET /v1/models: status 401"
    made.picker.apply_lack("other", address(9), Lack.MODELS, problem, made.clock.now_s)
    unlisted = await refusal(resolve, await parsed(), Reason.NO_ENDPOINTS)
    assert problem in unlisted.message
    assert address(9) not in unlisted.message


async def test_clients_of_anthropic_get_the_list_in_its_shape(made: Fleet) -> None:
    listed = ServedModel(MODEL, None, None, "org/base", 1_700_000_000)
    made.picker.apply_models(POOL, address(1), [listed], made.clock.now_s)
    asked = begun("/v1/models", "GET", anthropic_version="2023-06-01")
    answer = (await resolved(made, asked)).answer
    assert answer is not None
    found = orjson.loads(answer.body)
    assert found["data"][0] == {
        "type": "model",
        "id": MODEL,
        "display_name": MODEL,
        "created_at": "2023-11-14T22:13:20Z",
    }
    assert (found["has_more"], found["first_id"], found["last_id"]) == (False, MODEL, "dead")
    one = begun(f"/v1/models/{MODEL}", "GET", anthropic_version="2023-06-01")
    answer = (await resolved(made, one)).answer
    assert answer is not None
    assert orjson.loads(answer.body) == found["data"][0]
    assert begun("/v1/models/none", "GET", anthropic_version="2023-06-01").anthropic


async def test_a_caller_is_shown_only_what_it_may_use(made: Fleet) -> None:
    asked = begun("/v1/models", "GET")
    asked.caller = replace(asked.caller, models=("alias",))
    answer = (await resolved(made, asked)).answer
    assert answer is not None
    assert [one["id"] for one in orjson.loads(answer.body)["data"]] == ["alias"]
    for name in (MODEL, "none"):
        hidden = begun(f"/v1/models/{name}", "GET")
        hidden.caller = asked.caller
        await refusal(Resolve(made.picker.catalog, made.clock), hidden, Reason.MODEL_NOT_FOUND)


async def test_a_path_without_a_model_goes_to_the_default_pool(made: Fleet) -> None:
    context = await resolved(made, begun("/somewhere", "GET"))
    assert (context.pool, context.served_model) == (POOL, "")


class Pools:
    """Two pools of one replica each that serve one model, and an alias with a target in each."""

    def __init__(self, *weights: float) -> None:
        self.made = fleet([])
        pools = [
            PoolSettings(name, policy(), weight=weight)
            for name, weight in zip(("first", "second"), weights, strict=True)
        ]
        targets = tuple(RewriteTarget(MODEL, pool=pool.name) for pool in pools)
        self.made.picker.configure(
            PickerSettings(tuple(pools), rewrites=(RewriteRule("both", targets),))
        )
        for name in ("first", "second"):
            self.made.picker.pools.sync_endpoints(name, [EndpointSpec(f"{name}:1")])
            self.well(name)

    def well(self, name: str) -> None:
        picker, now_s = self.made.picker, self.made.clock()
        picker.apply_signals(name, f"{name}:1", IDLE, now_s)
        picker.apply_models(name, f"{name}:1", [ServedModel(MODEL, None, 9_999)], now_s)

    async def shares(self, asked: str = MODEL, **headers: str) -> dict[str, float]:
        """Of 400 requests."""
        got = Counter[str]()
        for _ in range(400):
            context = await parsed({"model": asked, "prompt": "x"}, **headers)
            got[(await resolved(self.made, context)).pool] += 1
        return {name: count / 400 for name, count in got.items()}


@pytest.mark.parametrize("asked", [MODEL, "both"])
@pytest.mark.parametrize("how", ["failed", "drains", "silent", "breaker", "gone"])
async def test_a_pool_that_cannot_serve_leaves_its_share_to_the_other(how: str, asked: str) -> None:
    pools = Pools(1, 1)
    picker, clock = pools.made.picker, pools.made.clock
    assert set(await pools.shares(asked)) == {"first", "second"}
    match how:
        case "failed":
            picker.mark_failed("first", "first:1", "refused", clock())
        case "drains":
            picker.pools.sync_endpoints("first", [EndpointSpec("first:1", draining=True)])
        case "silent":
            clock.now_s += 60.0
            pools.well("second")
        case "breaker":
            for _ in range(9):
                picker.pools["first"].breakers.failed(
                    *(picker.pools["first"].state.slot_of["first:1"], MODEL, clock(), clock(), "x"),
                    certain=True,
                )
        case "gone":
            picker.pools.sync_endpoints("first", [])
    assert await pools.shares(asked) == {"second": 1.0}
    picker.mark_failed("second", "second:1", "refused", clock())
    found = await pools.shares(asked)
    if how == "breaker":
        assert found == {"first": 1.0}, "better one that has failed than one that is gone"
    picker.pools.sync_endpoints("first", [EndpointSpec("first:1")])
    clock.now_s += 60.0
    pools.well("first")
    assert await pools.shares(asked) == {"first": 1.0}, "it is back"


@pytest.mark.parametrize(("weights", "share"), [((3, 1), 0.75), ((1, 0), 1.0), ((0, 0), 1.0)])
async def test_two_pools_share_by_weight(weights: tuple[float, float], share: float) -> None:
    pools = Pools(*weights)
    assert (await pools.shares())["first"] == pytest.approx(share, abs=0.07)
    pools.made.picker.mark_failed("first", "first:1", "refused", pools.made.clock())
    assert await pools.shares() == {"second": 1.0}


@pytest.mark.parametrize("asked", [MODEL, "both"])
async def test_a_session_stays_in_its_pool(asked: str) -> None:
    pools = Pools(1, 1)
    found = [await pools.shares(asked, x_session_id=f"s{number}") for number in range(12)]
    assert {len(one) for one in found} == {1}
    assert len({name for one in found for name in one}) == 2


async def test_the_sessions_of_each_target_are_shared_by_its_pools() -> None:
    """An alias has two targets, and each of them two pools."""
    made = fleet([])
    rule = RewriteRule("both", (RewriteTarget("a"), RewriteTarget("b")))
    pools = tuple(PoolSettings(name, policy(), models=("a", "b")) for name in ("first", "second"))
    made.picker.configure(PickerSettings(pools, rewrites=(rule,)))
    for name in ("first", "second"):
        made.picker.pools.sync_endpoints(name, [EndpointSpec(f"{name}:1")])
        made.picker.apply_signals(name, f"{name}:1", IDLE, made.clock())
        listed = [ServedModel(model, None, 9_999) for model in ("a", "b")]
        made.picker.apply_models(name, f"{name}:1", listed, made.clock())
    got = Counter[tuple[str, str]]()
    for number in range(400):
        context = await parsed({"model": "both", "prompt": "x"}, x_session_id=f"s{number}")
        found = await resolved(made, context)
        got[found.served_model, found.pool] += 1
    assert len(got) == 4
    assert min(got.values()) > 60


async def test_an_alias_goes_on_with_a_response_where_it_is_stored() -> None:
    """Its other target lives in another pool."""
    made = fleet([])
    rule = RewriteRule("both", (RewriteTarget("a"), RewriteTarget("b")))
    pools = tuple(PoolSettings(name, policy(), models=(name,)) for name in ("a", "b"))
    made.picker.configure(PickerSettings(pools, rewrites=(rule,)))
    for name in ("a", "b"):
        made.picker.pools.sync_endpoints(name, [EndpointSpec(f"{name}:1")])
        made.picker.apply_signals(name, f"{name}:1", IDLE, made.clock())
        listed = [ServedModel(name, None, 9_999)]
        made.picker.apply_models(name, f"{name}:1", listed, made.clock())
    for number in range(40):
        context = await parsed({"model": "both", "prompt": "x"}, x_session_id=f"s{number}")
        context.pool, context.holder = "b", "b:1"
        found = await resolved(made, context)
        assert (found.served_model, found.pool) == ("b", "b")
