"""Body bytes to fields and prompt."""

from __future__ import annotations

import orjson
import pytest
from msgspec.structs import replace

from picker.prompt.forms import Form
from picker.request.rejection import Reason
from tests.picker.fleet import chat
from tests.picker.pipeline.steps import begun, parse, refusal, take


async def test_a_known_api_is_read() -> None:
    context = begun()
    context.body = chat("Hello", stream=True, max_tokens=7)
    await take(parse(1_000), context)
    assert context.fields is not None
    assert (context.fields.stream, context.fields.max_output_tokens) == (True, 7)
    assert context.asked_model == "llama"
    assert context.prompt is not None
    assert b"Hello" in context.prompt.sequences[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no healthy upstream", Reason.INVALID_JSON),
        (b"[]", Reason.INVALID_REQUEST),
        (b'{"model": 7, "messages": [{"role": "user"}]}', Reason.INVALID_REQUEST),
        (b'{"model": "m", "messages": []}', Reason.INVALID_REQUEST),
        (chat(model="m" * 1_025), Reason.INVALID_REQUEST),
        (b" " * 1_000_001, Reason.TOO_LARGE),
    ],
)
async def test_what_cannot_be_read_is_refused(body: bytes, reason: Reason) -> None:
    context = begun()
    context.body = body
    await refusal(parse(1_000_000), context, reason)
    assert len(context.asked_model) <= 256, "logs and metrics take it"


async def test_a_path_that_is_not_known_is_looked_at_for_its_model_only() -> None:
    for body in (b'{"model": "m"}', b"not json", b'{"model": []}'):
        context = begun("/v1/audio/speech")
        context.body = body
        await take(parse(1_000), context)
        assert context.prompt is None
        assert context.asked_model == ("m" if body == b'{"model": "m"}' else "")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/encode"])
@pytest.mark.parametrize("given", [7, {}, [1], [["a"]], True, "a" * 1_025])
async def test_a_lora_path_that_names_nothing_is_refused(path: str, given: object) -> None:
    context = begun(path)
    context.body = chat(lora_path=given)
    await refusal(parse(100_000), context, Reason.INVALID_REQUEST)


async def test_a_body_without_a_content_type_is_read_as_engines_read_it() -> None:
    context = begun("/encode")
    context.head = replace(context.head, headers={})
    context.body = b'{"model": 7, "lora_path": ["a", "a"]}'
    await take(parse(1_000), context)
    assert context.asked_adapters == ("a",)


async def test_nothing_is_read_of_a_request_that_sends_nothing() -> None:
    context = begun("/v1/responses/resp_1", "GET")
    context.body = b"garbage"
    await take(parse(1_000), context)
    assert context.fields is None


async def test_an_invocation_is_what_its_body_says() -> None:
    context = begun("/invocations")
    context.body = orjson.dumps({"model": "m", "prompt": "x"})
    await take(parse(1_000), context)
    assert context.form is Form.COMPLETIONS
