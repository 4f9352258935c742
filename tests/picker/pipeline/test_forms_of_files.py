"""Multipart forms on their way: routed, authorised, aliased and limited by their model."""

from __future__ import annotations

import pytest

from picker.request.answer import Decision
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.settings import RewriteRule, RewriteTarget
from policies.limits.plan import TenantPolicy
from tests.picker.accounts import Accounts
from tests.picker.bodies.test_multipart import FILE, MODEL, TYPE, form
from tests.picker.fleet import MODEL as SERVED
from tests.picker.fleet import Fleet, ask, decided, fleet, head, refused

PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits")


class Restricted:
    """Lets in a caller that may use one model."""

    def identify(self, head: RequestHead) -> Caller:
        return Caller(TenantPolicy("a"), models=("gpt",))


def request(path: str = PATHS[0]) -> RequestHead:
    return head(path, content_type=TYPE)


def upload(model: str, size: int = 10) -> bytes:
    return form((FILE, bytes(size)), (MODEL, model.encode()))


def aliased(**parts: object) -> Fleet:
    made = fleet(**parts)  # type: ignore[arg-type]
    made.configure(rewrites=[RewriteRule("gpt", (RewriteTarget(SERVED),))])
    return made


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_an_alias_is_put_right_in_the_form(path: str, size: int) -> None:
    accounts = Accounts()
    decision = await decided(aliased(limiter=accounts), upload("gpt", size), request(path))
    assert decision.body == upload(SERVED, size)
    ((subject, _),) = accounts.asked
    assert subject.model == "gpt"


async def test_a_served_model_passes_byte_for_byte() -> None:
    assert (await decided(aliased(), upload(SERVED), request())).body is None


async def test_an_unknown_model_goes_to_the_default_pool_as_in_json() -> None:
    assert (await decided(aliased(), upload("none"), request())).body is None


@pytest.mark.parametrize(("model", "status"), [("gpt", None), (SERVED, 403), ("", 403)])
async def test_only_models_that_the_caller_may_use(model: str, status: int | None) -> None:
    outcome = await ask(aliased(gate=Restricted()), upload(model), request())
    assert (None if isinstance(outcome, Decision) else outcome.status) == status


async def test_a_form_that_may_be_read_in_two_ways_is_refused() -> None:
    twice = form((MODEL, b"gpt"), (MODEL, SERVED.encode()))
    assert (await refused(aliased(), twice, request())).status == 400


async def test_the_model_of_a_path_or_a_header_is_written_into_a_form_without_one() -> None:
    """An engine that gets none takes its own."""
    for asked in (
        head(f"/openai/deployments/gpt{PATHS[0][3:]}", content_type=TYPE),
        head(PATHS[0], content_type=TYPE, x_gateway_model_name_rewrite=SERVED),
    ):
        body = (await decided(aliased(gate=Trusting()), form((FILE, b"a")), asked)).body
        assert body == form((MODEL, SERVED.encode()), (FILE, b"a"))


class Trusting:
    """Lets in a caller that may use the model by both of its names."""

    def identify(self, head: RequestHead) -> Caller:
        return Caller(TenantPolicy("a"), models=("gpt", SERVED))
