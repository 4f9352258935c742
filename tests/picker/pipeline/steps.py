"""What the tests of single steps share: contexts, and how a step refuses."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest

from picker.bodies.apart import Here
from picker.caps import Caps
from picker.pipeline.parse import Parse
from picker.pipeline.steps import Step
from picker.prompt.forms import form_of
from picker.request.context import RequestContext
from picker.request.pick import Pick
from picker.request.rejection import Reason, Rejection
from picker.request.role import Role
from policies.routing.types import EndpointView, Features
from tests.picker.fleet import MODEL, head


def begun(
    path: str = "/v1/chat/completions", method: str = "POST", **headers: str
) -> RequestContext:
    """A request of which nothing but its head is known."""
    return RequestContext("p0-1", head(path, method, **headers), form_of(path))


def parse(max_body_bytes: int) -> Parse:
    """The step with default caps."""
    return Parse(max_body_bytes, Caps(), Here())


async def parsed(
    body: Mapping[str, object] | None = None,
    path: str = "/v1/completions",
    **headers: str,
) -> RequestContext:
    """A request whose body has been read."""
    context = begun(path, **headers)
    context.body = orjson.dumps({"model": MODEL, "prompt": "Hello"} if body is None else body)
    await take(parse(4 << 20), context)
    return context


async def take(step: Step, context: RequestContext) -> None:
    """Take the step, and wait for the rest of its work."""
    rest = step(context)
    if rest is not None:
        await rest


async def refusal(step: Step, context: RequestContext, reason: Reason) -> Rejection:
    """The rejection that the step must end the request with."""
    with pytest.raises(Rejection) as caught:
        await take(step, context)
    assert caught.value.reason is reason
    return caught.value


def pick(*addresses: str, role: Role = Role.BOTH, matched_tokens: float = 0.0) -> Pick:
    """A choice as a policy would have made it of an idle endpoint in slot 0."""
    seen = EndpointView(*(0.0 for _ in EndpointView._fields))
    features = Features(0, seen, 100.0, matched_tokens, 20.0, False, False, False, False)
    return Pick(role, addresses, features)
