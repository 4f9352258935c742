"""OpenAI request bodies of a workload's requests, for a client that sends them over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from loadtests.workloads.sessions import Request

SESSION_HEADER = "x-session-id"
TENANT_HEADER = "x-tenant-id"
"""A gateway takes it for true only where its operator says so."""

Api = Literal["chat", "completions"]

PATHS: Mapping[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def body(request: Request, model: str, api: Api) -> dict[str, object]:
    """The body of a request for either API: streaming, with usage at the end.

    For ``completions`` the prompt is plain text, without a chat template.
    """
    chat = api == "chat"
    said = {"messages": request.prompt.messages()} if chat else {"prompt": request.prompt.text()}
    # As inference-perf does: the answer is as long as planned, whatever the model would say.
    return {
        "model": request.adapter or model,
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **said,
    }


def headers(request: Request) -> Mapping[str, str]:
    """Headers from which the gateway knows the session of a request, and whose it is."""
    tenant = {TENANT_HEADER: request.tenant} if request.tenant else {}
    return {SESSION_HEADER: request.session, **tenant}
