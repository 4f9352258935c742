"""Streams with status 200 that say that the engine failed, and some that only look so."""

from __future__ import annotations

from dataclasses import dataclass

from tests.picker.server.streams import block, chat, data, response, text

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """``tokens``: streamed before it."""

    name: str
    body: bytes
    tokens: int = 0


_ERROR = {"message": "the engine is dead", "type": "InternalServerError", "code": 500}
_ROLE = chat({"role": "assistant", "content": ""})
_HI = chat({"content": "Hi"})
_CREATED = response("response.created", response={"usage": None, "error": None})
_OVERLOADED = data({"type": "error", "error": {"type": "overloaded_error"}}, "error")

FAILURES = (
    Failure("vLLM's error", data({"error": _ERROR}) + DONE),
    Failure("an older error", data({"object": "error", "message": "boom", "code": 500}) + DONE),
    Failure("an error that is a text", data({"error": "boom"})),
    Failure("SGLang's error", data({"error": {"object": "error", "message": "m"}}) + DONE),
    Failure("after tokens", _ROLE + _HI + _HI + data({"error": _ERROR}) + DONE, 2),
    Failure("a completion's", text("Hi") + data({"error": _ERROR}) + DONE, 1),
    Failure("Anthropic's", _OVERLOADED),
    Failure(
        "Anthropic's in the middle", block({"type": "text_delta", "text": "a"}) + _OVERLOADED, 1
    ),
    Failure("without a name", data({"type": "error", "error": {"type": "api_error"}})),
    Failure("an event that is no JSON", b"event: error\ndata: the engine is dead\n\n"),
    Failure("its data first", b'data: {"code": 1}\nevent: error\n\n'),
    Failure(
        "a response that failed",
        _CREATED + response("response.failed", response={"error": {"code": "x"}, "usage": None}),
    ),
    Failure("the Responses API's error", _CREATED + response("error", code="x", message="m")),
    Failure(
        "a filtered response",
        _CREATED
        + response(
            "response.incomplete", response={"incomplete_details": {"reason": "content_filter"}}
        ),
    ),
    Failure("an incomplete one", _CREATED + response("response.incomplete", response={})),
    Failure(
        "a router's, in a chunk",
        _HI + data({"error": _ERROR, "choices": [{"delta": {"content": ""}}]}),
        1,
    ),
    Failure("a choice that ends so", _HI + chat({"content": ""}, finish="error"), 1),
)

HARMLESS = (
    Failure("an error that is null", data({"error": None, "choices": [{"delta": {}}]}) + DONE, 1),
    Failure("an error in the text", chat({"content": '{"error": {"message": "x"}}'}) + DONE, 1),
    Failure("a token", chat({"content": "error"}) + DONE, 1),
    Failure(
        "an answer as long as allowed",
        _CREATED
        + response("response.output_text.delta", delta="a")
        + response(
            "response.incomplete",
            response={
                "error": None,
                "incomplete_details": {"reason": "max_output_tokens"},
                "usage": {"input_tokens": 3, "output_tokens": 1},
            },
        ),
        1,
    ),
)

BLAMES = (
    Failure("vLLM's", data({"error": {"message": "m", "type": "BadRequestError", "code": 400}})),
    Failure("by its code alone", _HI + data({"error": {"message": "m", "code": 422}}), 1),
    Failure("an older one", data({"object": "error", "message": "m", "code": 400}) + DONE),
    Failure(
        "Anthropic's",
        data({"type": "error", "error": {"type": "invalid_request_error"}}, "error"),
    ),
    Failure(
        "the Responses API's",
        _CREATED + response("response.failed", response={"error": {"code": 400}, "usage": None}),
    ),
    Failure("cancelled", _CREATED + response("response.cancelled", response={"usage": None})),
)
"""Failures for which the engine blames the request; none of the above is one."""
