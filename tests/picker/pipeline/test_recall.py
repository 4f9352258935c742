"""The replica that has a stored response, and what becomes of its id."""

from __future__ import annotations

import orjson
import pytest

from picker.request.answer import Decision
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.request.response_ids import given_id
from picker.settings import RewriteRule, RewriteTarget
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import MODEL, Fleet, address, ask, decided, end_of, fleet, head, refused

OWN = "resp_0123456789abcdef"


class Door:
    """Everybody is this tenant."""

    def __init__(self, tenant: str, models: tuple[str, ...] = ("*",)) -> None:
        self._caller = Caller(TenantPolicy(tenant), models=models)

    def identify(self, head: RequestHead) -> Caller:
        return self._caller


def shown(made: Fleet, number: int, tenant: str = "anonymous") -> str:
    """The id that a client got for a response of that replica."""
    issue = made.picker.response_ids.issue(tenant, (address(number),))
    return given_id(issue, address(number), OWN)


def follow_up(previous: str) -> bytes:
    return orjson.dumps({"model": MODEL, "input": "on", "previous_response_id": previous})


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_every_request_about_it_goes_to_its_replica_and_nowhere_else(number: int) -> None:
    made = fleet()
    given = shown(made, number)
    for method, rest in (
        ("GET", ""),
        ("GET", "/input_items"),
        ("GET", "?stream=true&starting_after=3"),
        ("DELETE", ""),
        ("POST", "/cancel"),
    ):
        path = f"/v1/responses/{given}{rest}"
        request = RequestHead(
            method, path.partition("?")[0], {":path": path, ":method": method}, None, 1000.0
        )
        decision = await decided(made, b"", request)
        assert decision.addresses == (address(number),)
        assert dict(decision.set_headers)[":path"] == f"/v1/responses/{OWN}{rest}"
        assert decision.retried_statuses == ""
    decision = await decided(made, follow_up(given), head("/v1/responses"))
    assert decision.addresses == (address(number),)
    assert decision.body is not None
    assert orjson.loads(decision.body)["previous_response_id"] == OWN
    assert decision.response_ids.known == (OWN, given)


async def test_what_goes_on_with_it_names_its_model() -> None:
    """Else limits and prices of no model would hold for it, and the engine would take its own."""
    made = fleet()
    body = orjson.dumps({"input": "on", "previous_response_id": shown(made, 2)})
    answer = await refused(made, body, head("/v1/responses"))
    assert answer.status == 400
    assert orjson.loads(answer.body)["error"]["param"] == "model"
    made.configure(rewrites=[RewriteRule("*", (RewriteTarget(MODEL),))])
    decision = await decided(made, body, head("/v1/responses"))
    assert decision.addresses == (address(2),)
    assert decision.body is not None
    assert orjson.loads(decision.body)["model"] == MODEL


async def test_a_replica_that_drains_still_gives_what_it_has_and_makes_nothing_new() -> None:
    made = fleet()
    given = shown(made, 2)
    made.sync([1, 2, 3], draining=[2])
    read = await decided(made, b"", head(f"/v1/responses/{given}", "GET"))
    assert read.addresses == (address(2),)
    answer = await refused(made, follow_up(given), head("/v1/responses"))
    assert answer.status == 503


@pytest.mark.parametrize("gone", [True, False])
async def test_a_replica_that_is_gone_or_out(gone: bool) -> None:
    made = fleet()
    given = shown(made, 2)
    if gone:
        made.sync([1, 3])
    else:
        made.picker.mark_failed("main", address(2), "refused", 1.0)
    for body, request in (
        (b"", head(f"/v1/responses/{given}", "GET")),
        (follow_up(given), head("/v1/responses")),
    ):
        answer = await refused(made, body, request)
        assert answer.status == (404 if gone else 503)


async def test_with_tenants_only_what_was_issued_to_one_is_there() -> None:
    made = fleet(gate=Door("a"))
    own, others = shown(made, 2, "a"), shown(made, 2, "b")
    assert isinstance(await ask(made, b"", head(f"/v1/responses/{own}", "GET")), Decision)
    for bad in (others, OWN, "x"):
        answer = await refused(made, b"", head(f"/v1/responses/{bad}", "GET"))
        assert answer.status == 404
        assert orjson.loads(answer.body)["error"]["code"] == "response_not_found"


async def test_without_tenants_a_replicas_own_id_passes() -> None:
    made = fleet()
    decision = await decided(made, follow_up(OWN), head("/v1/responses"))
    assert decision.body is None
    made.picker.complete(end_of(decision))
    odds: list[object] = [5, [], {}, "", None]
    for odd in odds:
        body = orjson.dumps({"model": MODEL, "input": "on", "previous_response_id": odd})
        assert isinstance(await ask(made, body, head("/v1/responses")), Decision)


@pytest.mark.parametrize("which", ["render", "compact", "input_tokens"])
async def test_what_is_no_id_is_not_looked_up(which: str) -> None:
    """These paths stand where an id stands in others; what they go on with is found."""
    made = fleet(gate=Door("a"))
    path = f"/v1/responses/{which}"
    body = orjson.dumps({"model": MODEL, "input": "x"})
    assert isinstance(await ask(made, body, head(path)), Decision)
    for number in (1, 2, 3):
        decision = await decided(made, follow_up(shown(made, number, "a")), head(path))
        assert decision.addresses == (address(number),)
        assert decision.body is not None
        assert orjson.loads(decision.body)["previous_response_id"] == OWN
    answer = await refused(made, follow_up(shown(made, 2, "b")), head(path))
    assert answer.status == 404


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
@pytest.mark.parametrize("more", [{}, {"model": None}, {"model": ""}])
async def test_to_go_on_with_a_response_takes_a_model_that_the_caller_may_use(
    path: str, more: dict[str, object]
) -> None:
    made = fleet(gate=Door("a", models=("other",)))
    given = shown(made, 2, "a")
    body = orjson.dumps({"input": "on", "previous_response_id": given, **more})
    answer = await refused(made, body, head(path))
    assert answer.status == 403
    assert isinstance(await ask(made, b"", head(f"/v1/responses/{given}", "GET")), Decision)
    assert isinstance(await ask(made, b"", head(f"/v1/responses/{given}/cancel")), Decision)


async def test_to_go_on_with_a_response_takes_a_model() -> None:
    made = fleet()
    body = orjson.dumps({"input": "on", "previous_response_id": shown(made, 2)})
    answer = await refused(made, body, head("/v1/responses"))
    assert (answer.status, orjson.loads(answer.body)["error"]["param"]) == (400, "model")
