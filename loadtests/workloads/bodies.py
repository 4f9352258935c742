"""OpenAI request bodies of a workload's requests, for a client that sends them over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from loadtests.workloads.sessions import Request

SESSION_HEADER = "x-session-id"

Api = Literal["chat", "completions"]

PATHS: Mapping[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def body(request: Request, model: str, api: Api) -> dict[str, object]:
    """The body of a request for either API."""
    return (chat_body if api == "chat" else completions_body)(request, model)


def chat_body(request: Request, model: str) -> dict[str, object]:
    """For ``/v1/chat/completions``: streaming, with usage at the end."""
    return {**_options(request, model), "messages": request.prompt.messages()}


def completions_body(request: Request, model: str) -> dict[str, object]:
    """For ``/v1/completions``: the prompt as plain text, without a chat template."""
    return {**_options(request, model), "prompt": request.prompt.text()}


def headers(request: Request) -> Mapping[str, str]:
    """Headers from which the gateway knows the session of a request."""
    return {SESSION_HEADER: request.session}


def _options(request: Request, model: str) -> dict[str, object]:
    # As inference-perf does: the answer is as long as planned, whatever the model would say.
    return {
        "model": request.adapter or model,
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
