"""The Endpoint Picker protocol's cases, over a real gRPC channel, in every transport."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import orjson
import pytest
from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, Metadata

from picker import names
from picker.pipeline.decide import Decide
from picker.pipeline.dispatch import Dispatch
from picker.pipeline.schedule import Schedule
from picker.settings import PickerSettings, PoolSettings, RewriteRule, RewriteTarget
from picker.state.endpoints import Signals
from tests.picker.fleet import FOUR, IDLE, MODEL, POOL, address, chat, load, policy
from tests.picker.server.conftest import TRANSPORTS, Served
from tests.picker.server.edge import Edge, subset_hint

pytestmark = pytest.mark.parametrize("transport", TRANSPORTS, indirect=True)

ADAPTER = "sql-lora"


@pytest.mark.parametrize(
    ("replicas", "model", "subset", "picked"),
    [
        pytest.param([load(3, 0.2), load(0, 0.1), load(10, 0.2)], MODEL, None, 2, id="1 load"),
        pytest.param(
            [
                load(0, 0.2, ("other",), 1),
                load(0, 0.2, (ADAPTER,), 1),
                load(0, 0.2, ("other",), 1),
            ],
            ADAPTER,
            None,
            2,
            id="2 adapter",
        ),
        pytest.param(
            [
                load(10, 0.2, ("other",), 1),
                load(10, 0.4, (ADAPTER,), 1),
                load(10, 0.3, ("other",), 1),
            ],
            ADAPTER,
            None,
            2,
            id="3 adapter beats KV",
        ),
        pytest.param(
            [load(0, 0.1), load(1, 0.1), load(50, 0.9)], MODEL, [address(3)], 3, id="4 subset"
        ),
    ],
)
async def test_routes_to(
    edge: Edge, replicas: list[Signals], model: str, subset: list[str] | None, picked: int
) -> None:
    edge.fleet.configure(profile=FOUR)
    for number, signals in enumerate(replicas, 1):
        edge.fleet.report(number, signals, (MODEL, ADAPTER))
    reply = await edge.ask(chat(model=model), subset=subset)
    assert reply.addresses[0] == address(picked)


async def test_the_decision_in_the_transports_form(edge: Edge) -> None:
    reply = await edge.ask(chat())
    assert reply.clears_route_cache
    assert len(reply.addresses) == 3
    assert reply.body in (None, chat())
    destination = ",".join(reply.addresses)
    if edge.fast:
        ours = reply.metadata[names.PENSTOCK_NAMESPACE]
        assert ours["picker"] == "p0"
        assert reply.headers[names.POOL_HEADER] == f"pool_{POOL}"
        assert reply.headers[names.MAX_RETRIES] == "2"
    else:
        assert reply.headers[names.DESTINATION] == destination
        assert set(reply.metadata) == {names.LB_NAMESPACE}
    assert edge.fleet.is_settled
    done = edge.fleet.seen.completions[0]
    assert (done.endpoint, done.status, done.reason) == (reply.addresses[0], 200, "ok")
    assert (done.input_tokens, done.output_tokens, done.usage_reported) == (10, 5, True)


@pytest.mark.parametrize(
    ("subset", "allowed"),
    [
        pytest.param([address(2)], {2}, id="list"),
        pytest.param(f"{address(1)} , {address(2)}", {1, 2}, id="comma string"),
        pytest.param(["10.0.0.3"], {3}, id="ip without port"),
        pytest.param([address(9), address(1)], {1}, id="one unknown"),
        pytest.param(["10.0.0.1:9000"], set(), id="other port"),
        pytest.param([address(9)], set(), id="5 unknown only"),
        pytest.param([], set(), id="empty list"),
        pytest.param("", set(), id="empty string"),
        pytest.param(" , ,", set(), id="commas"),
        pytest.param(8000, set(), id="number"),
        pytest.param(True, set(), id="boolean"),
        pytest.param({"a": address(1)}, set(), id="struct"),
        pytest.param({}, set(), id="empty struct"),
        pytest.param([1, None, True, {"a": address(1)}], set(), id="list of others"),
        pytest.param([1, None, address(1)], {1}, id="one of a list"),
        pytest.param([[address(1)], f"{address(2)},"], {1, 2}, id="nested list"),
        pytest.param([address(1)] * 3 + [""], {1}, id="repeated"),
        pytest.param(["not an address", "é", ":", "[::1]:8000"], set(), id="no addresses"),
        pytest.param(None, {1, 2, 3}, id="absent"),
    ],
)
@pytest.mark.parametrize("body", [chat(), None], ids=["POST", "GET without body"])
async def test_subset(edge: Edge, subset: object, allowed: set[int], body: bytes | None) -> None:
    path = "/v1/chat/completions" if body else "/version"
    reply = await edge.ask(body, subset=subset, path=path)
    if allowed:
        assert set(reply.addresses) == {address(number) for number in allowed}
    else:
        assert reply.status == 503
        assert reply.headers[names.DROPPED_REASON] == "rejected-no-endpoints"


@pytest.mark.parametrize("first", [None, [], [address(1)]], ids=["absent", "empty", "another"])
async def test_a_hint_in_the_metadata_of_the_body(edge: Edge, first: object) -> None:
    later = subset_hint([address(2)])
    later.filter_metadata[names.LB_NAMESPACE]["canary"] = True
    reply = await edge.ask(chat(), subset=first, with_body=later, cut_bytes=9)
    assert reply.addresses == [address(2)]
    assert reply.metadata[names.LB_NAMESPACE]["canary"] is True
    refused = await edge.ask(chat(), subset=first, with_body=subset_hint([]))
    assert refused.status == 503


async def test_a_null_hint_restricts_nothing(edge: Edge) -> None:
    hint = Metadata()
    hint.filter_metadata[names.SUBSET_NAMESPACE].update({names.SUBSET_KEY: None})
    assert len((await edge.ask(chat(), metadata=hint)).addresses) == 3


async def test_other_metadata_of_the_balancer_is_kept(edge: Edge) -> None:
    metadata = Metadata()
    metadata.filter_metadata[names.LB_NAMESPACE]["canary"] = True
    metadata.filter_metadata[names.LB_NAMESPACE][names.DESTINATION] = "6.6.6.6:1"
    reply = await edge.ask(chat(), metadata=metadata)
    assert reply.metadata[names.LB_NAMESPACE]["canary"] is True
    assert "6.6.6.6:1" not in reply.addresses


async def test_scores_are_told_when_switched_on(edge: Edge) -> None:
    edge.fleet.configure(report_scores=True)
    reply = await edge.ask(chat())
    scores = reply.metadata[names.LB_NAMESPACE][names.SCORES]
    assert isinstance(scores, dict)
    assert set(scores) == set(reply.addresses)


async def test_header_names_in_any_case_and_raw_values_first(edge: Edge) -> None:
    edge.fleet.configure(rewrites=[RewriteRule("alias", (RewriteTarget(MODEL),))])
    headers = HeaderMap(
        headers=[
            HeaderValue(key=":method", raw_value=b"POST"),
            HeaderValue(key=":path", value="/nowhere", raw_value=b"/v1/chat/completions"),
            HeaderValue(key="X-Gateway-Model-Name-Rewrite", value="nobody", raw_value=b"llama"),
            HeaderValue(key="X-Bad", raw_value=b"\xff\xfe\x00"),
        ]
    )
    async with edge.exchange(chat(model="whatever"), headers, Metadata(), None) as exchange:
        assert exchange.reply.status is None
        assert orjson.loads(exchange.reply.body or b"")["model"] == MODEL
        await exchange.finish()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-original-path": "/v1/messages?beta=true"},
        {"x-forwarded-path": "/v1/messages"},
        {":path": "/v1/messages?x=/v1/chat/completions", "x-original-path": "/v1/embeddings"},
        {":path": "/some/prefix/v1/messages"},
    ],
    ids=["original", "forwarded", "path wins, query ignored", "suffix"],
)
async def test_path(edge: Edge, headers: Mapping[str, str]) -> None:
    given = HeaderMap(
        headers=[HeaderValue(key=k, value=v) for k, v in {":method": "POST", **headers}.items()]
    )
    async with edge.exchange(b"{}", given, Metadata(), None) as exchange:
        assert orjson.loads(exchange.reply.body or b"")["type"] == "error"  # Anthropic's shape


@pytest.mark.parametrize(
    ("headers", "objective", "fairness"),
    [
        ({"x-gateway-inference-objective": "old"}, "old", ""),
        (
            {
                "x-gateway-inference-objective": "old",
                "x-llm-d-inference-objective": "new",
                "x-gateway-inference-fairness-id": "a",
                "x-llm-d-inference-fairness-id": "b",
            },
            "new",
            "b",
        ),
        ({"x-llm-d-inference-objective": ""}, "", ""),
    ],
    ids=["10 old", "10 both: new", "empty"],
)
async def test_objective(
    edge: Edge, headers: dict[str, str], objective: str, fairness: str
) -> None:
    await edge.ask(chat(), headers)
    labels = edge.fleet.seen.completions[0].labels
    assert (labels.objective, labels.fairness_id) == (objective, fairness)


async def test_the_new_rewrite_header_wins(edge: Edge) -> None:
    edge.fleet.report(1, IDLE, (MODEL, ADAPTER))
    reply = await edge.ask(
        chat(),
        {"x-gateway-model-name-rewrite": "nobody", "x-llm-d-model-name-rewrite": ADAPTER},
    )
    assert orjson.loads(reply.body or b"")["model"] == ADAPTER
    assert reply.addresses == [address(1)]


async def test_what_a_client_may_not_set_is_removed(edge: Edge) -> None:
    reply = await edge.ask(chat(), dict.fromkeys(names.CLIENT_MAY_NOT_SET, "evil"))
    gone = {*reply.removed, *reply.headers}
    assert gone >= set(names.CLIENT_MAY_NOT_SET)
    assert not set(reply.removed) & set(reply.headers)
    assert "evil" not in reply.headers.values()


async def test_7_a_body_that_is_not_json(edge: Edge) -> None:
    reply = await edge.ask(b"no healthy upstream")
    assert reply.status == 400
    assert reply.error["code"] == "invalid_json"


async def test_8_no_model_is_refused_and_filled_in_by_a_generic_rule(edge: Edge) -> None:
    assert (await edge.ask(chat(model=None))).error["code"] == "model_required"
    edge.fleet.configure(rewrites=[RewriteRule("*", (RewriteTarget(MODEL),))])
    null = chat(model=None).replace(b"{", b'{"model": null,', 1)
    for body in (chat(model=None), null, chat(model="")):
        reply = await edge.ask(body)
        assert orjson.loads(reply.body or b"")["model"] == MODEL


async def test_9_other_paths_pass_byte_for_byte(edge: Edge) -> None:
    edge.fleet.configure(
        rewrites=[RewriteRule("alias", (RewriteTarget(MODEL),))], passthrough=("/custom", "/v2/*")
    )
    for path in ("/custom?x=1", "/v2/other"):
        for body in (b'{ "model" : "alias" }', b"\x00\xff", b'{"model": "nobody"}'):
            reply = await edge.ask(body, path=path)
            assert reply.body in (None, body)
            assert reply.addresses


async def test_an_alias_leads_on_wherever_json_names_a_model(edge: Edge) -> None:
    edge.fleet.configure(rewrites=[RewriteRule("alias", (RewriteTarget(MODEL),))])
    for path in ("/v1/audio/speech", "/v1/images/generations", "/detokenize"):
        reply = await edge.ask(b'{ "model" : "alias", "x": 1 }', path=path)
        assert orjson.loads(reply.body or b"") == {"model": MODEL, "x": 1}
        assert (await edge.ask(b'{"model": "nobody"}', path=path)).body in (
            None,
            b'{"model": "nobody"}',
        )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1%2Fload_lora_adapter",
        "/%73leep",
        "//sleep",
        "/sleep/",
        "/sleep%2F",
        "/metrics",
        "/sleep?level=1",
    ],
)
async def test_the_engines_own_admin_paths_are_closed(edge: Edge, path: str) -> None:
    for method in ("GET", "POST"):
        reply = await edge.ask(b"{}", path=path, method=method)
        assert (reply.status, reply.error["code"]) == (404, "path_not_found")


@pytest.mark.parametrize(
    ("target", "respelled"),
    [
        ("/v1/chat/completions?a=/tokenize", None),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("//v1/chat//completions?a=b", "/v1/chat/completions?a=b"),
        ("/%76%31/chat%2Fcompletions", "/v1/chat/completions"),
    ],
)
async def test_the_replica_reads_the_path_that_was_decided_by(
    edge: Edge, target: str, respelled: str | None
) -> None:
    reply = await edge.ask(chat(), path=target)
    assert reply.addresses
    assert reply.headers.get(":path") == respelled


@pytest.mark.parametrize("mark", ["%3Fa=", "%23", "%3B", "%00", "%5C", "%252F", "/.%2e"])
async def test_a_path_that_servers_read_differently_is_refused(edge: Edge, mark: str) -> None:
    reply = await edge.ask(chat(), path=f"/v1/chat/completions{mark}/tokenize")
    assert (reply.status, reply.error["code"]) == (403, "path_not_allowed")


async def test_11_the_content_length_of_a_changed_body(edge: Edge) -> None:
    edge.fleet.configure(rewrites=[RewriteRule("alias", (RewriteTarget(MODEL),))])
    reply = await edge.ask(chat(model="alias"), {"content-length": str(len(chat(model="alias")))})
    assert reply.body == chat(model=MODEL)
    assert reply.headers["content-length"] == str(len(chat(model=MODEL)))
    assert "content-length" not in (await edge.ask(chat())).headers


async def test_17_a_weighted_rewrite_splits_by_its_weights(edge: Edge) -> None:
    targets = (RewriteTarget(MODEL, 3.0), RewriteTarget(ADAPTER, 1.0))
    edge.fleet.configure(rewrites=[RewriteRule("split", targets)])
    for number in (1, 2, 3):
        edge.fleet.report(number, IDLE, (MODEL, ADAPTER))
    bodies = [(await edge.ask(chat(model="split"))).body for _ in range(200)]
    served = Counter(orjson.loads(body or b"")["model"] for body in bodies)
    assert served[MODEL] + served[ADAPTER] == 200
    assert 125 <= served[MODEL] <= 175  # 150 expected, deviation 6


async def test_exact_rules_before_generic_and_older_before_newer(edge: Edge) -> None:
    edge.fleet.report(1, IDLE, (MODEL, "a", "b", "c"))
    rules = [
        RewriteRule("*", (RewriteTarget("a"),)),
        RewriteRule("alias", (RewriteTarget("b"),)),
        RewriteRule("alias", (RewriteTarget("c"),)),
    ]
    edge.fleet.configure(rewrites=rules)
    for asked, served in (("alias", "b"), ("unheard-of", "a"), ("c", "c")):
        reply = await edge.ask(chat(model=asked))
        assert orjson.loads(reply.body or chat(model=asked))["model"] == served


@pytest.mark.parametrize("where", ["header", "body"])
async def test_18_sessions(edge: Edge, where: str) -> None:
    in_header = {"x-session-id": "s" * 5000} if where == "header" else {}
    in_body = {"session_id": "s" * 5000} if where == "body" else {}
    first = (await edge.ask(chat("one", **in_body), in_header)).addresses[0]
    for number in range(5):
        reply = await edge.ask(chat(f"turn {number} " * 50, **in_body), in_header)
        assert reply.addresses[0] == first
    dead = int(first.split(".")[3].split(":")[0])
    edge.fleet.sync([number for number in (1, 2, 3) if number != dead])
    second = (await edge.ask(chat("more", **in_body), in_header)).addresses[0]
    assert second != first
    edge.fleet.sync([1, 2, 3])
    edge.fleet.report(dead)
    assert (await edge.ask(chat("more", **in_body), in_header)).addresses[0] == second


async def test_18_session_token(edge: Edge) -> None:
    for number in (1, 2, 3):
        token = {1: "MTAuMC4wLjE6ODAwMA==", 2: "MTAuMC4wLjI6ODAwMA==", 3: "MTAuMC4wLjM6ODAwMA=="}
        reply = await edge.ask(chat(), {"x-session-token": token[number]})
        assert reply.addresses[0] == address(number)
    for broken in ("%%%", "OS45LjkuOTo4MA==", "w6Q="):
        assert (await edge.ask(chat(), {"x-session-token": broken})).addresses


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param("word " * 400, id="string"),
        pytest.param(["word " * 400, "other " * 400], id="list"),
        pytest.param(list(range(1000)), id="token ids"),
        pytest.param([list(range(1000)), list(range(900))], id="lists of token ids"),
    ],
)
async def test_19_prompts_of_every_form_find_their_prefix(edge: Edge, prompt: object) -> None:
    body = orjson.dumps({"model": MODEL, "prompt": prompt})
    for _ in range(2):
        await edge.ask(body, path="/v1/completions")
    cold, warm = edge.fleet.seen.completions
    assert cold.endpoint == warm.endpoint
    assert cold.matched_tokens == 0 < warm.matched_tokens


@pytest.mark.parametrize(
    "content",
    [
        None,
        "text",
        [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}],
    ],
    ids=["null", "string", "parts"],
)
async def test_20_message_contents(edge: Edge, content: object) -> None:
    messages = [{"role": "user", "content": content}]
    assert (await edge.ask(orjson.dumps({"model": MODEL, "messages": messages}))).addresses


async def test_21_a_body_of_5_mb(edge: Edge) -> None:
    body = chat("x" * 5_000_000)
    assert (await edge.ask(body)).body in (None, body)


async def test_23_no_replica_and_back_again(edge: Edge) -> None:
    for number in (1, 2, 3):
        edge.fleet.picker.mark_failed(POOL, address(number), "refused", 0)
    for body in (chat(), None):
        reply = await edge.ask(body, path="/v1/chat/completions" if body else "/version")
        assert reply.status == 503
        assert reply.headers[names.DROPPED_REASON] == "rejected-no-endpoints"
    edge.fleet.report(2)
    assert (await edge.ask(chat())).addresses == [address(2)]


async def test_the_list_of_models(edge: Edge) -> None:
    edge.fleet.report(1, IDLE, (MODEL, "org/sql"))
    edge.fleet.configure(rewrites=[RewriteRule("alias", (RewriteTarget(MODEL),))])
    reply = await edge.ask(None, path="/v1/models")
    listed = {model["id"]: model for model in orjson.loads(reply.body or b"")["data"]}
    assert set(listed) == {MODEL, "org/sql", "alias"}
    assert listed["org/sql"]["parent"] == MODEL
    one = await edge.ask(None, path="/v1/models/org%2Fsql")
    assert orjson.loads(one.body or b"")["id"] == "org/sql"
    assert (await edge.ask(None, path="/v1/models/none")).status == 404
    assert (await edge.ask(None, path="/v1/modelsx")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "kind", "code", "param"),
    [
        (b"", 400, "invalid_request_error", "invalid_json", None),
        (b"[]", 400, "invalid_request_error", "invalid_request", None),
        (
            b'{"model":"llama","messages":[]}',
            400,
            "invalid_request_error",
            "invalid_request",
            "messages",
        ),
        (
            b'{"model":"llama","messages":5}',
            400,
            "invalid_request_error",
            "invalid_request",
            "messages",
        ),
        (b'{"model":7,"messages":[]}', 400, "invalid_request_error", "invalid_request", "model"),
        (
            b'{"messages":[{"role":"user","content":"a"}]}',
            400,
            "invalid_request_error",
            "model_required",
            "model",
        ),
        (chat(model="nobody"), 404, "invalid_request_error", "model_not_found", "model"),
        (chat(model="n" * 2000), 400, "invalid_request_error", "invalid_request", "model"),
    ],
    ids=[
        "empty",
        "array",
        "no messages",
        "messages of a wrong type",
        "model of a wrong type",
        "no model",
        "unknown model",
        "endless name",
    ],
)
async def test_rejections(
    edge: Edge, body: bytes, status: int, kind: str, code: str, param: str | None
) -> None:
    reply = await edge.ask(body)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert {**reply.error, "message": None} == {
        "message": None,
        "type": kind,
        "param": param,
        "code": code,
    }
    assert reply.error["message"]
    assert names.DROPPED_REASON not in reply.headers
    assert [(r.status, r.reason) for r in edge.fleet.seen.rejections] == [(status, code)]
    anthropic = await edge.ask(body, path="/v1/messages")
    assert anthropic.status == status
    wanted = "not_found_error" if status == 404 else "invalid_request_error"
    assert orjson.loads(anthropic.body or b"")["type"] == "error"
    assert anthropic.error["type"] == wanted
    assert edge.fleet.is_settled


async def test_a_prompt_over_the_models_context(edge: Edge) -> None:
    body = orjson.dumps({"model": MODEL, "prompt": [1] * 40_000})
    reply = await edge.ask(body, path="/v1/completions")
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")


async def test_a_body_over_the_limit(edge: Edge) -> None:
    edge.fleet.configure(max_body_bytes=1000)
    assert (await edge.ask(chat("x" * 800))).addresses
    reply = await edge.ask(chat("x" * 1000))
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")
    assert edge.fleet.is_settled


async def test_conditional_decode(edge: Edge) -> None:
    text, prefer = "long words " * 200, {"prefer": "if-available"}
    reply = await edge.ask(chat(text), prefer)
    assert (reply.status, reply.error["code"]) == (412, "not_cached")
    first = await edge.ask(chat(text))
    assert (await edge.ask(chat(text), prefer)).addresses[0] == first.addresses[0]


async def test_an_unknown_model_before_any_replica_has_told_its_models(
    edge: Edge, served: Served
) -> None:
    edge.fleet.sync([])
    edge.fleet.picker.configure(PickerSettings(pools=()))
    edge.fleet.configure()
    edge.fleet.sync([1])
    reply = await edge.ask(chat())
    assert (reply.status, reply.error["code"]) == (503, "no_endpoints")


async def test_16_while_shutting_down(edge: Edge) -> None:
    edge.fleet.picker.drain()
    for body in (chat(), None):
        reply = await edge.ask(body, path="/v1/chat/completions" if body else "/v1/models")
        assert reply.status == 503
        assert reply.error["code"] == "shutting_down"
        assert reply.headers[names.DROPPED_REASON] == "rejected-shutting-down"


async def test_an_error_inside_a_step_is_500_and_leaks_nothing(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError("boom")

    for step in (Schedule, Dispatch, Decide):
        with monkeypatch.context() as patch:
            patch.setattr(step, "__call__", fail)
            reply = await edge.ask(chat())
        assert (reply.status, reply.error["code"]) == (500, "internal_error")
        assert "boom" not in str(reply.error["message"])
        assert edge.fleet.is_settled
    assert [event.status for event in edge.fleet.seen.rejections] == [500] * 3
    assert not edge.fleet.seen.completions


async def test_replicas_get_the_gateways_key_in_place_of_the_clients(edge: Edge) -> None:
    headers = (("authorization", "Bearer sk-ours"), ("host", "models.internal"))
    pool = PoolSettings(POOL, policy(), set_headers=headers)
    edge.fleet.picker.configure(PickerSettings((pool,)))
    own = {"authorization": "Bearer sk-client", "x-api-key": "sk-client"}
    reply = await edge.ask(chat(), own)
    assert reply.headers["authorization"] == "Bearer sk-ours"
    assert reply.headers[":authority"] == "models.internal"
    assert "x-api-key" in reply.removed
    assert "authorization" not in reply.removed, "not every gateway removes before it sets"
    assert "sk-ours" not in str(reply.metadata)
