"""Kept decisions as JSON documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from picker.explain.document import Document
from picker.explain.selection import DecisionsOfPicker, Query
from picker.settings import PickerSettings, PoolSettings
from policies.routing.spec import PolicySpec
from tests.picker.accounts import Accounts
from tests.picker.fleet import (
    MODEL,
    POOL,
    Fleet,
    address,
    chat,
    decided,
    end_of,
    fleet,
    head,
    load,
    refused,
)

DOCS = (Path(__file__).parents[3] / "docs" / "explain.md").read_text()


def source(made: Fleet) -> DecisionsOfPicker:
    return DecisionsOfPicker(made.picker.id, made.picker.decisions, made.clock)


async def found(made: Fleet, query: Query) -> list[dict[str, Any]]:
    documents = [one.document async for one in source(made).find(query)]
    return [orjson.loads(orjson.dumps(document)) for document in documents]


async def whole(made: Fleet, request_id: str) -> dict[str, Any]:
    (document,) = await found(made, Query(request_id=request_id, whole=True))
    return document


def using(made: Fleet, policy: str) -> None:
    made.picker.configure(PickerSettings((PoolSettings(POOL, PolicySpec(policy)),)))


async def test_everything_of_a_request() -> None:
    made = fleet([load(0, 0.1), load(9, 0.2), load(5, 0.3)], limiter=Accounts())
    using(made, "auto")
    made.sync([1, 2, 3], draining=[3])
    text = "long words " * 300
    made.picker.complete(end_of(await decided(made, chat(text))))
    decision = await decided(made, chat(text, stream=True), head(x_request_id="mine"))
    made.clock.now_s += 3
    made.picker.complete(
        end_of(decision, input_tokens=900, cached_tokens=800, ttft_s=0.25, duration_s=1.25)
    )
    one = await whole(made, "mine")
    assert one["decision_id"] == decision.id
    assert (one["state"], one["pool"], one["model"], one["policy"]) == ("ok", POOL, MODEL, "auto")
    assert one["endpoint"] == address(1)
    assert one["refusal"] is None
    (choice,) = one["choices"]
    first, second = choice["candidates"]
    assert (first["endpoint"], first["order"]) == (address(1), 1)
    assert (second["endpoint"], second["order"]) == (address(2), 2)
    assert first["matched_tokens"] > 700
    assert first["matched_tokens"] + first["uncached_tokens"] == one["prompt_tokens"]
    assert second["waiting_requests"] == 9
    assert first["predicted_ttft_ms"] == one["predicted_ttft_ms"] < second["predicted_ttft_ms"]
    assert first["predicted_tpot_ms"] > 0
    assert choice["left_out"] == [{"endpoint": address(3), "why": "draining", "reason": "draining"}]
    assert choice["chosen"]["kv_usage"] == 0.1
    assert choice["why"].startswith("It has the highest score of 2 candidates")
    result = one["result"]
    assert result["ttft_ms"] == 250
    assert result["tpot_ms"] == 250
    assert result["ttft_error_ms"] == pytest.approx(250 - one["predicted_ttft_ms"], abs=0.01)
    assert (result["input_tokens"], result["cached_tokens"]) == (900, 800)
    assert (result["charged_input_tokens"], result["charged_output_tokens"]) == (900, 5)
    assert result["tries"] == [{"endpoint": address(1), "outcome": "status 200"}]


async def test_served_elsewhere_after_a_failure() -> None:
    made = fleet()
    decision = await decided(made, chat(stream=True), head(x_request_id="mine"))
    first, second, _ = decision.addresses
    made.picker.complete(end_of(decision, address=second, tries=("refused",)))
    one = await whole(made, "mine")
    assert (one["endpoint"], one["result"]["endpoint"]) == (first, second)
    assert one["result"]["ttft_error_ms"] is None
    assert one["result"]["tries"] == [
        {"endpoint": first, "outcome": "the connection was refused"},
        {"endpoint": second, "outcome": "status 200"},
    ]


async def test_refused_and_under_way_have_the_same_members() -> None:
    made = fleet()
    await decided(made, chat(), head(x_request_id="under way"))
    await refused(made, chat(model="no"), head(x_request_id="refused"))
    one, other = await whole(made, "under way"), await whole(made, "refused")
    assert list(one) == list(other)
    assert (one["state"], one["result"], one["refusal"]) == ("under_way", None, None)
    assert (other["state"], other["choices"], other["endpoint"]) == ("refused", [], None)
    assert other["refusal"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), ["d", "c", "b", "a"]),
        (Query(limit=2), ["d", "c"]),
        (Query(request_id="b"), ["b"]),
        (Query(request_id="p0-1"), ["a"]),
        (Query(state="ok"), ["a"]),
        (Query(state="under_way"), ["c", "b"]),
        (Query(state="refused"), ["d"]),
        (Query(model=MODEL), ["c", "b", "a"]),
        (Query(model="no"), ["d"]),
        (Query(pool=POOL), ["c", "b", "a"]),
        (Query(pool="elsewhere"), []),
        (Query(tenant="anonymous"), ["d", "c", "b", "a"]),
        (Query(tenant="acme"), []),
        (Query(endpoint="10.9.9.9:1"), ["a"]),
        (Query(endpoint="10.9.9.8:1"), []),
    ],
)
async def test_filters(query: Query, expected: list[str]) -> None:
    made = fleet()
    for name in "abc":
        made.clock.now_s += 1
        decision = await decided(made, chat(), head(x_request_id=name))
        if name == "a":
            made.picker.complete(end_of(decision, address="10.9.9.9:1"))
    made.clock.now_s += 1
    await refused(made, chat(model="no"), head(x_request_id="d"))
    documents = await found(made, query)
    assert [one["request_id"] for one in documents] == expected
    assert all("choices" not in one for one in documents)


async def test_an_id_that_was_used_again_and_one_that_is_too_long_to_keep() -> None:
    made, long = fleet(), "x" * 5_000
    for _ in range(2):
        await decided(made, chat(), head(x_request_id=long))
    assert len(await found(made, Query(request_id=long))) == 2


async def test_how_far_back_it_remembers() -> None:
    made = fleet()
    asked = source(made)
    assert asked.kept().oldest_s is None
    await decided(made, chat())
    kept = asked.kept()
    assert (kept.picker, kept.decided_total, kept.forgets) == (made.picker.id, 1, False)
    assert kept.oldest_s is not None


def members(document: Document) -> set[str]:
    names = set(document)
    for value in document.values():
        for part in value if isinstance(value, list) else (value,):
            names |= members(part) if isinstance(part, dict) else set()
    return names


async def test_every_member_is_documented_and_the_other_way_round() -> None:
    made = fleet()
    made.sync([1, 2, 3], draining=[3])
    decision = await decided(made, chat(), head(x_request_id="a"))
    made.picker.complete(end_of(decision))
    await refused(made, chat(model="no"), head(x_request_id="b"))
    there = members(await whole(made, "a")) | members(await whole(made, "b"))
    table = DOCS.partition("## Fields")[2].partition("\n## ")[0]
    documented = set()
    for cell in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE):
        documented |= set(re.findall(r"`(\w+)`", cell))
    assert documented == there | {"agrees", "failure"}  # of a shadow
