"""Who may use what: models by their patterns, paths by what limits can see of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest
from msgspec import structs

from picker.request.answer import Answer, Decision
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.request.response_ids import given_id
from picker.settings import RewriteRule, RewriteTarget
from policies.limits.plan import By, LimitRule, TenantPolicy
from policies.limits.types import CalendarWindow, Dimension, Period
from tests.picker.accounts import Accounts
from tests.picker.fleet import MODEL, Fleet, address, ask, chat, end_of, fleet, head

OTHER = "other"
TEXT = orjson.dumps({"model": MODEL, "prompt": "a"})


class Door:
    """Everybody is this tenant."""

    def __init__(self, policy: TenantPolicy) -> None:
        self._caller = Caller(policy)

    def identify(self, head: RequestHead) -> Caller:
        return self._caller


def place(policy: TenantPolicy) -> Fleet:
    made = fleet(models=(MODEL, OTHER), gate=Door(policy), limiter=Accounts())
    made.configure(rewrites=[RewriteRule("*", (RewriteTarget(OTHER),))])
    return made


def rule(dimension: Dimension, *, shadow: bool = False) -> LimitRule:
    return LimitRule("limit", dimension, CalendarWindow(1_000_000, Period.DAY), shadow=shadow)


def code(outcome: Decision | Answer) -> str:
    """Of the refusal, "" for none."""
    if isinstance(outcome, Decision):
        return ""
    error = orjson.loads(outcome.body)["error"]
    assert outcome.status == 403, error
    return str(error.get("code", error["type"]))


def stored(made: Fleet) -> str:
    """Path of a response that the tenant has stored."""
    issue = made.picker.response_ids.issue("acme", (address(1),))
    return f"/v1/responses/{given_id(issue, address(1), 'resp_1')}"


RESTRICTED = TenantPolicy("acme", models=(MODEL,))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(model=None)),
        ("/v1/chat/completions", chat(model="")),
        ("/v1/completions", b'{"prompt": "a"}'),
        ("/v1/embeddings", b'{"input": "a"}'),
        ("/v1/responses", b'{"input": "a"}'),
        ("/rerank", b'{"query": "a", "documents": ["b"]}'),
        ("/v1/score", b'{"text_1": "a", "text_2": "b"}'),
        ("/tokenize", b'{"prompt": "a"}'),
        ("/inference/v1/generate", b'{"token_ids": [1]}'),
        ("/generate", b'{"text": "a"}'),
        ("/generative_scoring", b'{"query": "a", "items": ["b"]}'),
        ("/invocations", b'{"prompt": "a"}'),
        ("/opaque", b"{}"),
    ],
)
async def test_who_may_use_some_models_only_must_name_one(path: str, body: bytes) -> None:
    assert code(await ask(place(RESTRICTED), body, head(path))) == "model_not_allowed"


async def test_a_stored_response_names_no_model_for_the_next_one() -> None:
    made = place(RESTRICTED)
    previous = stored(made).rpartition("/")[2]
    body = {"input": "a", "previous_response_id": previous}
    outcome = await ask(made, orjson.dumps(body), head("/v1/responses"))
    assert code(outcome) == "model_not_allowed"
    body["model"] = MODEL
    assert code(await ask(made, orjson.dumps(body), head("/v1/responses"))) == ""


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--b--\r\n'
) % (MODEL.encode(), OTHER.encode())


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"model": "other", "input": "a", "speed": NaN}'),
        ("application/json", '{"model": "other", "input": "a"}'.encode("utf-16")),
        ("application/json", b'{"model": "other", "input": "\\ud800"}'),
        ("application/json", b'[{"model": "other"}]'),
        ("text/plain", b'{"model": "other", "input": "a"}'),
        ("multipart/form-data; boundary=b", FORM),
    ],
)
async def test_a_name_elsewhere_stands_for_no_body_that_cannot_be_read(
    kind: str, body: bytes
) -> None:
    """An engine may read it, and take the model from it."""
    made = place(RESTRICTED)
    plain = head("/v1/audio/speech", content_type=kind, x_gateway_model_name_rewrite=MODEL)
    azure = head(f"/openai/deployments/{MODEL}/audio/speech", content_type=kind)
    for request in (plain, azure):
        assert code(await ask(made, body, request)) == "model_not_allowed"
        assert code(await ask(made, chat(), structs.replace(request, headers=JSON))) == ""


@pytest.mark.parametrize("body", [b'{"model": "other", "speed": NaN}', b"[]", b'{"model": 5}'])
async def test_no_limit_by_model_is_passed_by_what_only_the_engine_reads(body: bytes) -> None:
    some = LimitRule("some", Dimension.REQUESTS, CalendarWindow(1, Period.DAY), models=(OTHER,))
    each = replace(some, models=(), by=(By.MODEL,))
    for rules, status in (((some,), 400), ((each,), 400), ((rule(Dimension.REQUESTS),), None)):
        made = place(TenantPolicy("acme", rules))
        outcome = await ask(made, body, head("/v1/audio/speech"))
        assert (outcome.status if isinstance(outcome, Answer) else None) == status


JSON = {"content-type": "application/json", "x-gateway-model-name-rewrite": MODEL}


async def test_messages_too() -> None:
    body = orjson.dumps({"max_tokens": 5, "messages": [{"role": "user", "content": "a"}]})
    outcome = await ask(place(RESTRICTED), body, head("/v1/messages"))
    assert code(outcome) == "permission_error"


async def test_every_name_must_be_allowed() -> None:
    made = place(RESTRICTED)
    assert code(await ask(made, chat())) == ""
    assert code(await ask(made, chat(model=OTHER))) == "model_not_allowed"
    rewritten = head(x_gateway_model_name_rewrite=OTHER)
    assert code(await ask(made, chat(), rewritten)) == "model_not_allowed"
    for adapters in (OTHER, [None, OTHER]):
        body = chat(lora_path=adapters)
        assert code(await ask(made, body)) == "model_not_allowed"
    for method, path in (("GET", stored(made)), ("DELETE", stored(made))):
        assert code(await ask(made, b"", head(path, method))) == ""


METERED = [
    (rule(Dimension.TOTAL_TOKENS),),
    (rule(Dimension.WEIGHTED_TOKENS),),
    (rule(Dimension.REQUESTS), rule(Dimension.MONEY)),
]
NOT_METERED = [
    (),
    (rule(Dimension.REQUESTS), rule(Dimension.CONCURRENCY)),
    (rule(Dimension.TOTAL_TOKENS, shadow=True),),
]
SEVERAL = {"text": "a", "stream": 1, "sampling_params": {"n": 2}}


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/api/generate", "POST", b"{}"),
        ("/encode", "PUT", b"{}"),
        ("/cohere/v2/chat", "POST", chat()),
        ("/v1/chat/completions/batch", "POST", chat()),
        ("/opaque", "POST", b""),
        ("/generate", "POST", orjson.dumps({"model": MODEL, **SEVERAL})),
        ("/generate", "POST", b'{"model": "llama", "text": ["a", "b"], "stream": true}'),
    ],
)
async def test_what_no_limit_would_see_is_refused_to_who_has_limits(
    path: str, method: str, body: bytes
) -> None:
    for rules in METERED:
        outcome = await ask(place(TenantPolicy("acme", rules)), body, head(path, method))
        assert code(outcome) == "path_not_metered", rules
    for rules in NOT_METERED:
        outcome = await ask(place(TenantPolicy("acme", rules)), body, head(path, method))
        assert code(outcome) == "", rules


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/v1/chat/completions", "POST", chat()),
        ("/v1/completions", "POST", TEXT),
        ("/generate", "POST", b'{"model": "llama", "text": ["a", "b"]}'),
        ("/generate", "POST", b'{"model": "llama", "text": "a", "stream": true}'),
        ("/tokenize", "POST", TEXT),
        ("/detokenize", "POST", b'{"tokens": [1]}'),
        ("/v1/chat/completions/render", "POST", chat()),
        ("/v1/messages/render", "POST", chat()),
        ("/v1/completions/derender", "POST", b"{}"),
        ("/v1/audio/transcriptions", "POST", b"--"),
        ("/v1/audio/speech", "POST", b"{}"),
        ("/v1/images/generations", "POST", b"{}"),
        ("<stored>/cancel", "POST", b""),
        ("<stored>", "GET", b""),
        ("<stored>", "DELETE", b""),
        ("/version", "GET", b""),
    ],
)
async def test_what_is_metered_or_harmless_is_not(path: str, method: str, body: bytes) -> None:
    policies: Sequence[TenantPolicy] = [TenantPolicy("acme", rules) for rules in METERED]
    for policy in policies:
        made = place(policy)
        asked = head(path.replace("<stored>", stored(made)), method)
        assert code(await ask(made, body, asked)) == ""


@pytest.mark.parametrize("background", [True, 1, "true", "yes"])
async def test_what_goes_on_without_its_client_is_refused_under_limits(background: object) -> None:
    stored = {"model": MODEL, "input": "a", "store": True}
    body = orjson.dumps({**stored, "background": background})
    sglang = orjson.dumps({"text": "a", "background": background})
    for dimension in (Dimension.TOTAL_TOKENS, Dimension.MONEY):
        made = place(TenantPolicy("acme", rules=(rule(dimension),)))
        assert code(await ask(made, body, head("/v1/responses"))) == "background_not_metered"
        assert code(await ask(made, sglang, head("/generate"))) == "background_not_metered"
        assert code(await ask(made, orjson.dumps(stored), head("/v1/responses"))) == ""
    for rules in ((), (rule(Dimension.REQUESTS),), (rule(Dimension.TOTAL_TOKENS, shadow=True),)):
        made = place(TenantPolicy("acme", rules=rules))
        assert code(await ask(made, body, head("/v1/responses"))) == ""
    made = place(TenantPolicy("acme", rules=(rule(Dimension.TOTAL_TOKENS),)))
    chatting = chat(background=background)
    assert code(await ask(made, chatting, head())) == "", "engines know no such thing there"


@pytest.mark.parametrize("reason", ["ok", "client_aborted"])
async def test_in_the_background_it_is_made_whoever_listens(reason: str) -> None:
    accounts = Accounts()
    made = fleet(limiter=accounts)
    body = orjson.dumps(
        {"model": MODEL, "input": "a" * 400, "background": True, "max_output_tokens": 50}
    )
    decision = await ask(made, body, head("/v1/responses"))
    assert isinstance(decision, Decision)
    unknown: dict[str, object] = {"input_tokens": None, "output_tokens": None, "reason": reason}
    made.picker.complete(end_of(decision, "p0", **unknown))
    (usage,) = accounts.settled
    assert usage.input_tokens >= 100
    assert usage.output_tokens == 50
