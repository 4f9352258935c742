"""What is not let in at all, and what is answered at the door."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from picker.pipeline.doors import (
    MAX_HEADERS,
    AnswerHealth,
    RefuseClosedPaths,
    RefuseManyHeaders,
    RefusePathsOfOtherEngines,
    RefuseWhenDraining,
)
from picker.request.context import RequestContext
from picker.request.rejection import Reason
from picker.settings import PoolSettings
from tests.picker.fleet import policy
from tests.picker.pipeline.steps import begun, refusal, take

CONTROL = {
    "vllm": (
        "/metrics /load /sleep /wake_up /is_sleeping /pause /resume /abort_requests /server_info"
        " /inference/v1/abort_requests /v1/load_lora_adapter /v1/unload_lora_adapter"
        " /collective_rpc /reset_prefix_cache /start_profile /scale_elastic_ep /update_weights"
        " /fault_tolerance/apply /kv_event_sources /release_kv_cache_memory /docs /openapi.json"
        " /static/x /metrics/v1/chat/completions"
    ),
    "sglang": (
        "/abort_request /pause_generation /continue_generation /set_internal_state /flush_cache"
        " /configure_logging /open_session /close_session /slow_down /freeze_gc /get_server_info"
        " /update_weights_from_ipc /init_weights_update_group /get_weights_by_name"
        " /hicache/storage-backend /hicache/storage-backend/clear /generate_from_file /dumper/x"
        " /load_lora_adapter /health_generate /get_load /v1/loads /vertex_generate"
    ),
    "trtllm": (
        "/release_memory /resume_memory /kv_cache_events /steady_clock_offset /perf_metrics"
        " /prometheus/metrics /prometheus/metrics/v1/chat/completions /_internal/tokenize"
        " /_resource_governor/x /v1/videos"
    ),
    "openai": "/v1/files /v1/fine_tuning/jobs /v1/organization/usage /v1/batches /tokenize",
}
OPEN = {
    "vllm": "/v1/chat/completions /v1/completions/render /v2/embed /pooling /tokenize /score",
    "sglang": "/generate /encode /v1/rerank /api/chat /detokenize /v1/audio/transcriptions",
    "trtllm": "/v1/completions /v1/responses/resp_1/cancel /v1/images/generations",
    "openai": "/v1/moderations /v1/responses /v1/audio/speech /v1/messages/count_tokens",
}
ENGINES = sorted(OPEN)


def pool(engine: str) -> PoolSettings:
    return PoolSettings(engine, policy(), engine=engine)


def door(*engines: str, passthrough: tuple[str, ...] = ()) -> RefuseClosedPaths:
    return RefuseClosedPaths([pool(engine) for engine in engines], passthrough)


async def test_only_a_draining_picker_refuses() -> None:
    draining = False
    step = RefuseWhenDraining(lambda: draining)
    await take(step, begun())
    draining = True
    rejection = await refusal(step, begun(), Reason.SHUTTING_DOWN)
    assert ("x-llm-d-request-dropped-reason", "rejected-shutting-down") in rejection.headers()


async def test_more_headers_than_leave_room_for_ours_are_refused() -> None:
    step = RefuseManyHeaders()
    for lines, reason in ((MAX_HEADERS, None), (MAX_HEADERS + 1, Reason.TOO_MANY_HEADERS)):
        context = begun()
        context.head = replace(context.head, header_lines=lines)
        if reason is None:
            await take(step, context)
        else:
            await refusal(step, context, reason)


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
async def test_what_is_not_listed_is_closed(engine: str, method: str) -> None:
    step = door(engine)
    listed = CONTROL.get(engine) or " ".join(CONTROL[one] for one in ("vllm", "sglang", "trtllm"))
    for path in [*listed.split(), "/", "", "/v1", "/V1/chat/completions", "/v1/chat/completions x"]:
        await refusal(step, begun(path, method), Reason.PATH_NOT_FOUND)


@pytest.mark.parametrize("engine", ENGINES)
async def test_each_engines_inference_is_open(engine: str) -> None:
    for path in OPEN[engine].split():
        for step in (door(engine), door("auto"), door(*ENGINES)):
            await take(step, begun(path))
            rejection = await refusal(step, begun(path, "PATCH"), Reason.METHOD_NOT_ALLOWED)
            allow = dict(rejection.headers())["allow"].split(", ")
            assert "POST" in allow
            assert "OPTIONS" in allow


@pytest.mark.parametrize("method", ["GET", "HEAD", "post", "Post", "TRACE", "DELETE"])
async def test_a_wrong_method_says_which_ones_are_right(method: str) -> None:
    rejection = await refusal(door("auto"), begun(method=method), Reason.METHOD_NOT_ALLOWED)
    assert dict(rejection.headers())["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions?a=/tokenize",
        "/v1/chat/completions#/tokenize",
        "/v1/chat/completions;a=b",
        "/v1/chat/completions\\",
        "/v1/chat/completions\0",
        "/v1/chat/completions\n",
        "/v1/chat%2fcompletions",
        "/v1/files/../../sleep",
        "/v1/files/..",
        "/v1/responses/.",
        "/sleep;x",
    ],
)
async def test_a_path_with_two_readings_is_refused(path: str) -> None:
    for method in ("GET", "POST"):
        step = door("auto", passthrough=("/v1/files/*",))
        await refusal(step, begun(path, method), Reason.PATH_NOT_ALLOWED)


async def test_passthrough_opens_paths_for_every_method() -> None:
    step = door("openai", passthrough=("/v1/files/*", "/my/path"))
    for path in ("/v1/files", "/v1/files/file-1/content", "/my/path"):
        for method in ("GET", "POST", "DELETE"):
            await take(step, begun(path, method))
        await refusal(step, begun(path, "TRACE"), Reason.METHOD_NOT_ALLOWED)
    for path in ("/v1/filesystem", "/my/path/below", "/my"):
        await refusal(step, begun(path), Reason.PATH_NOT_FOUND)


async def test_a_closed_path_hints_at_the_open_one() -> None:
    rejection = await refusal(door("auto"), begun("/chat/completions"), Reason.PATH_NOT_FOUND)
    assert "Did you mean /v1/chat/completions?" in rejection.message


@pytest.mark.parametrize(("path", "allow"), [("*", None), ("/v1/models/a;b", "GET, HEAD, OPTIONS")])
async def test_options_is_answered_here(path: str, allow: str | None) -> None:
    context = begun(path, "OPTIONS")
    await take(door("auto"), context)
    assert context.answer is not None
    assert (context.answer.status, context.answer.body) == (204, b"")
    assert dict(context.answer.headers).get("allow") == allow


async def test_health_is_answered_here() -> None:
    ready = True
    step = AnswerHealth(lambda: ready)
    for path in ("/health", "/ping"):
        context = begun(path, "GET")
        await take(step, context)
        assert context.answer is not None
        assert context.answer.status == 200
    ready = False
    await refusal(step, begun("/health", "GET"), Reason.NO_ENDPOINTS)
    context = begun()
    await take(step, context)
    assert context.answer is None


def bound_for(engine: str, path: str) -> RequestContext:
    context = begun(path)
    context.pool = engine
    return context


async def test_a_path_is_open_for_its_own_engine_only() -> None:
    step = RefusePathsOfOtherEngines([pool("vllm"), pool("openai")], ())
    await take(step, bound_for("vllm", "/tokenize"))
    await refusal(step, bound_for("openai", "/tokenize"), Reason.PATH_NOT_FOUND)
    await take(step, bound_for("openai", "/v1/chat/completions"))
