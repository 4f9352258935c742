"""What a request is held and charged for: under which name, how many tokens."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest

from picker.settings import RewriteRule, RewriteTarget
from policies.limits.prices import Usage
from tests.picker.accounts import Accounts
from tests.picker.fleet import IDLE, MODEL, Fleet, ask, chat, decided, end_of, fleet, head

DEAR = "dear"


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
def made(accounts: Accounts) -> Fleet:
    one = fleet(models=(MODEL, DEAR), limiter=accounts)
    one.configure(
        rewrites=[
            RewriteRule("*", (RewriteTarget(DEAR),)),
            RewriteRule("alias", (RewriteTarget(DEAR),)),
        ]
    )
    return one


@pytest.mark.parametrize(
    ("asked", "header", "billed"),
    [
        (MODEL, None, MODEL),
        ("alias", None, "alias"),
        ("unheard-of", None, DEAR),
        ("*", None, DEAR),
        (None, None, DEAR),
        (MODEL, DEAR, DEAR),
        ("alias", MODEL, MODEL),
        (None, MODEL, MODEL),
    ],
)
@pytest.mark.parametrize("name", ["x-gateway-model-name-rewrite", "x-llm-d-model-name-rewrite"])
async def test_the_name_that_limits_and_prices_go_by(
    made: Fleet, accounts: Accounts, asked: str | None, header: str | None, billed: str, name: str
) -> None:
    headers = {} if header is None else {name: header}
    await decided(made, chat(model=asked), head(**headers))
    ((subject, _),) = accounts.asked
    assert subject.model == billed


async def test_a_path_that_leads_to_no_model_has_no_price(accounts: Accounts) -> None:
    one = fleet(limiter=accounts)
    await decided(one, b"\x00", head("/opaque"))
    await decided(one, b'{"model": "elsewhere"}', head("/opaque"))
    assert [subject.model for subject, _ in accounts.asked] == ["", ""]


@pytest.mark.parametrize(
    ("path", "body", "output_tokens"),
    [
        ("/v1/completions", {"prompt": ["a", "b"], "n": "3", "max_tokens": "10"}, 60),
        ("/v1/completions", {"prompt": "a", "max_completion_tokens": 1, "max_tokens": 90}, 90),
        ("/invocations", {"prompt": ["a", "b"], "max_tokens": 10}, 20),
        ("/invocations", {"messages": [{"role": "user"}], "max_tokens": 10, "n": 2}, 20),
        (
            "/inference/v1/generate",
            {"token_ids": [1], "sampling_params": {"max_tokens": 10, "n": 4}},
            40,
        ),
        ("/generate", {"text": ["a", "b"], "sampling_params": {"max_new_tokens": 9, "n": 2}}, 36),
        ("/generative_scoring", {"query": "q", "items": ["a", "b", "c"]}, 3),
    ],
)
async def test_output_as_declared(
    made: Fleet, accounts: Accounts, path: str, body: Mapping[str, object], output_tokens: int
) -> None:
    await decided(made, orjson.dumps({"model": MODEL, **body}), head(path))
    ((_, expected),) = accounts.asked
    assert expected.input_tokens > 0
    assert expected.output_tokens == output_tokens


async def test_sglangs_own_api_leads_to_the_one_model_there_is(accounts: Accounts) -> None:
    one = fleet(limiter=accounts)
    body = orjson.dumps({"text": "Hi", "sampling_params": {"max_new_tokens": 9}})
    for method in ("POST", "PUT"):
        decision = await decided(one, body, head("/generate", method))
        assert decision.body is None
    assert [subject.model for subject, _ in accounts.asked] == [MODEL, MODEL]
    several = fleet(models=(MODEL,))
    several.report(1, IDLE, ("other",))
    outcome = await ask(several, body, head("/generate"))
    assert b"model_required" in getattr(outcome, "body", b"")


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/responses/resp_1", "GET"),
        ("/v1/responses/resp_1/cancel", "POST"),
        ("/v1/messages/count_tokens", "POST"),
        ("/tokenize", "POST"),
    ],
)
async def test_what_runs_no_model_counts_as_a_request_only(
    made: Fleet, accounts: Accounts, path: str, method: str
) -> None:
    body = b"" if method == "GET" else chat(model=MODEL)
    decision = await decided(made, body, head(path, method))
    made.picker.complete(end_of(decision, input_tokens=1000, output_tokens=500))
    ((_, expected),) = accounts.asked
    assert expected == Usage(0, 0)
    assert accounts.settled == [Usage(0, 0)]
    assert made.seen.completions[-1].output_tokens == 0


async def test_nothing_is_learned_from_a_stored_answer(made: Fleet) -> None:
    before = made.picker.learned.output.tokens("anonymous", "")
    for _ in range(200):
        decision = await decided(made, b"", head("/v1/responses/resp_1", "GET"))
        made.picker.complete(end_of(decision, output_tokens=9_000))
    assert made.picker.learned.output.tokens("anonymous", "") == before


async def test_no_answer_is_charged_more_than_16_contexts(made: Fleet, accounts: Accounts) -> None:
    decision = await decided(made, chat(n=2, max_tokens=5))
    made.picker.complete(end_of(decision, input_tokens=10**9, output_tokens=2 * 10**9))
    assert accounts.settled == [Usage(16 * 32_768, 2 * 16 * 32_768)]
