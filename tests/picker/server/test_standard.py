"""What only the standard transport has: streamed bodies, responses, trailers."""

from __future__ import annotations

import grpc
import orjson
import pytest
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
)

from picker.settings import RewriteRule, RewriteTarget
from policies.health.breaker import DEFAULT_RULES
from policies.routing.spec import PolicySpec
from tests.picker.fleet import MODEL, POOL, address, chat
from tests.picker.server.edge import JSON, SSE, Edge, header_map, next_message
from tests.picker.server.failures import BLAMES, FAILURES, Failure
from tests.picker.server.streams import STREAMS, Stream

POST = header_map({":method": "POST", ":path": "/v1/chat/completions"})


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(0, [0]), (62_000, [62_000]), (62_001, [62_000, 1]), (125_000, [62_000, 62_000, 1_000])],
)
async def test_the_body_goes_back_in_chunks(edge: Edge, size: int, chunks: list[int]) -> None:
    reply = await edge.ask(b"x" * size, path="/opaque")
    assert [bytes_ for bytes_, _ in reply.chunks] == chunks
    assert [end for _, end in reply.chunks] == [False] * (len(chunks) - 1) + [True]
    assert reply.body == b"x" * size


async def test_6_a_body_in_several_chunks_is_one_decision(edge: Edge) -> None:
    body = chat("word " * 200)
    reply = await edge.ask(body, cut_bytes=100)
    assert reply.body == body
    assert len(edge.fleet.seen.completions) == 1


async def test_a_request_without_body_gets_no_body(edge: Edge) -> None:
    reply = await edge.ask(None, path="/version")
    assert reply.addresses
    assert not reply.chunks


@pytest.mark.parametrize(("fallbacks", "named"), [(0, 1), (1, 2), (7, 3)])
async def test_a_gateway_is_told_of_as_many_endpoints_as_it_takes(
    edge: Edge, fallbacks: int, named: int
) -> None:
    edge.fleet.configure(foreign_fallbacks=fallbacks)
    reply = await edge.ask(chat())
    assert reply.headers["x-gateway-destination-endpoint"] == ",".join(reply.addresses)
    assert len(set(reply.addresses)) == named


async def test_nothing_is_answered_before_the_body_has_ended(edge: Edge) -> None:
    call = edge.call()
    await call.write(edge.first(POST, Metadata(), ends=False))
    body = chat()
    await call.write(ProcessingRequest(request_body=HttpBody(body=body[:10])))
    # A second request is served in the meantime: had there been an answer, it would be here.
    await edge.ask(chat())
    assert len(edge.fleet.seen.completions) == 1
    await call.write(ProcessingRequest(request_body=HttpBody(body=body[10:], end_of_stream=True)))
    assert (await next_message(call)).HasField("request_headers")
    call.cancel()


async def test_trailers_of_the_request(edge: Edge) -> None:
    call = edge.call()
    await call.write(edge.first(POST, Metadata(), ends=False))
    await call.write(ProcessingRequest(request_body=HttpBody(body=chat())))
    await call.write(ProcessingRequest(request_trailers=HttpTrailers()))
    assert (await next_message(call)).HasField("request_headers")
    part = (await next_message(call)).request_body.response.body_mutation.streamed_response
    assert (part.body, part.end_of_stream) == (chat(), False)
    assert (await next_message(call)).HasField("request_trailers")
    call.cancel()


async def test_too_large_a_body_is_refused_before_its_end(edge: Edge) -> None:
    edge.fleet.configure(max_body_bytes=1000)
    call = edge.call()
    await call.write(edge.first(POST, Metadata(), ends=False))
    await call.write(ProcessingRequest(request_body=HttpBody(body=b"x" * 1001)))
    assert (await next_message(call)).immediate_response.status.code == 413
    call.cancel()


async def test_another_mode_is_refused_with_what_to_set(edge: Edge) -> None:
    fast = Edge("fast", edge.channel, edge.logs, edge.fleet, fast=True)
    call = fast.call()
    await call.write(fast.first(POST, Metadata(), ends=False))
    with pytest.raises(grpc.aio.AioRpcError, match="FULL_DUPLEX_STREAMED"):
        await call.read()


@pytest.mark.parametrize("mode", ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL"])
async def test_responses_must_be_shown_or_their_usage_would_not_be_charged(
    edge: Edge, mode: str
) -> None:
    call = edge.call()
    first = edge.first(POST, Metadata(), ends=True)
    first.protocol_config.response_body_mode = ProcessingMode.BodySendMode.Value(mode)
    await call.write(first)
    with pytest.raises(grpc.aio.AioRpcError, match=f"has .*response_body_mode {mode}") as refused:
        await call.read()
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    (logged,) = edge.fleet.seen.rejections
    assert (logged.status, logged.reason) == (503, "wrong_processing_mode")


async def test_who_declares_no_modes_is_believed_to_have_them(edge: Edge) -> None:
    call = edge.call()
    first = edge.first(POST, Metadata(), ends=False)
    first.ClearField("protocol_config")
    await call.write(first)
    await call.write(ProcessingRequest(request_body=HttpBody(body=chat(), end_of_stream=True)))
    assert (await next_message(call)).HasField("request_headers")
    call.cancel()


# -- responses

OPENAI = (
    b'{"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}'
)
RESPONSES = (
    b'{"usage":{"input_tokens":7,"output_tokens":3,"input_tokens_details":{"cached_tokens":4}}}'
)
ANTHROPIC = (
    b'{"usage":{"input_tokens":2,"output_tokens":3,'
    b'"cache_creation_input_tokens":1,"cache_read_input_tokens":4}}'
)
OPENAI_STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
    b'data: {"choices":[{"delta":{"content":"\\"usage\\": {"}}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\ndata: [DONE]\n\n'
)
RESPONSES_STREAM = (
    b'event: response.created\ndata: {"response":{"usage":null}}\n\n'
    b'event: response.completed\ndata: {"response":' + RESPONSES + b"}\n\n"
)
ANTHROPIC_STREAM = (
    b'event: message_start\r\ndata: {"message":{"usage":{"input_tokens":7,"output_tokens":0}}}'
    b"\r\n\r\n"
    b'event: message_delta\r\ndata: {"usage":{"output_tokens":3,"input_tokens":2,'
    b'"cache_creation_input_tokens":1,"cache_read_input_tokens":4}}\r\n\r\n'
)


@pytest.mark.parametrize(
    ("response", "headers"),
    [
        pytest.param(OPENAI, JSON, id="OpenAI"),
        pytest.param(RESPONSES, JSON, id="Responses"),
        pytest.param(ANTHROPIC, JSON, id="Anthropic"),
        pytest.param(OPENAI_STREAM, SSE, id="OpenAI stream"),
        pytest.param(RESPONSES_STREAM, SSE, id="Responses stream"),
        pytest.param(ANTHROPIC_STREAM, SSE, id="Anthropic stream"),
        pytest.param(
            OPENAI_STREAM.rstrip().removesuffix(b"data: [DONE]").rstrip(),
            SSE,
            id="stream without last empty line",
        ),
    ],
)
@pytest.mark.parametrize("cut_bytes", [1, 7, 10_000])
@pytest.mark.parametrize("trailers", [False, True])
async def test_12_usage_is_counted_once_however_the_response_is_cut(
    edge: Edge, response: bytes, headers: dict[str, str], cut_bytes: int, trailers: bool
) -> None:
    chunks = [response[i : i + cut_bytes] for i in range(0, len(response), cut_bytes)]
    async with edge.open(chat()) as exchange:
        out = await exchange.respond(chunks, headers, trailers=trailers)
    assert b"".join(out) == response
    assert out[: len(chunks)] == chunks
    done = edge.fleet.seen.completions
    assert [(d.input_tokens, d.output_tokens, d.cached_tokens) for d in done] == [(7, 3, 4)]
    assert done[0].reason == "ok"


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
async def test_a_stream_that_breaks_off_counts_for_what_has_passed(
    edge: Edge, stream: Stream
) -> None:
    async with edge.open(chat(stream=True)) as exchange:
        await exchange.begin_response(SSE)
        for event, _ in stream.events:
            await exchange.response_chunk(event)
        await exchange.close()
    (done,) = edge.fleet.seen.completions
    reason = "engine_error" if "fails" in stream.name else "client_aborted"
    assert (done.reason, done.output_tokens) == (reason, stream.tokens)


async def test_13_each_chunk_of_a_stream_is_answered_at_once(edge: Edge) -> None:
    async with edge.open(chat(stream=True, stream_options={"include_usage": True})) as exchange:
        await exchange.begin_response(SSE)
        for number in range(3):
            chunk = b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number
            assert await exchange.response_chunk(chunk) == chunk
        assert await exchange.response_chunk(b"", end=True) == b""


@pytest.mark.parametrize("cut_bytes", [1, 5, 10_000])
@pytest.mark.parametrize("trailers", [False, True])
async def test_a_usage_chunk_that_the_client_did_not_ask_for_is_stripped(
    edge: Edge, cut_bytes: int, trailers: bool
) -> None:
    events = OPENAI_STREAM.split(b"\n\n")
    chunks = [OPENAI_STREAM[i : i + cut_bytes] for i in range(0, len(OPENAI_STREAM), cut_bytes)]
    async with edge.open(chat(stream=True)) as exchange:
        sent = orjson.loads(exchange.reply.body or b"")
        assert sent["stream_options"] == {"include_usage": True}
        out = await exchange.respond(chunks, {**SSE, "content-length": "999"}, trailers=trailers)
        assert "content-length" in exchange.response_removed
    assert b"".join(out) == b"\n\n".join([events[0], events[1], events[3], b""])
    done = edge.fleet.seen.completions[0]
    assert (done.input_tokens, done.output_tokens) == (7, 3)


@pytest.mark.parametrize("kind", [JSON, SSE], ids=["json", "stream"])
@pytest.mark.parametrize("cut_bytes", [1, 3, 17, 10_000])
async def test_the_client_sees_the_model_it_asked_for(
    edge: Edge, kind: dict[str, str], cut_bytes: int
) -> None:
    edge.fleet.configure(rewrites=[RewriteRule("gpt-4", (RewriteTarget(MODEL),))])
    text = b'{"id":"1","model" : "llama","choices":[{"text":"\\"model\\":\\"llama\\" llama"}]}'
    wanted = text.replace(b'"model" : "llama"', b'"model" : "gpt-4"')
    if kind is SSE:
        text, wanted = (b"data: %s\n\n" % one * 2 for one in (text, wanted))
    async with edge.open(chat(model="gpt-4")) as exchange:
        chunks = [text[i : i + cut_bytes] for i in range(0, len(text), cut_bytes)]
        assert b"".join(await exchange.respond(chunks, kind)) == wanted
        assert "content-length" in exchange.response_removed
    assert edge.fleet.seen.completions[0].labels.model == "gpt-4"


async def test_an_answer_that_is_not_json_passes_and_counts_as_no_usage(edge: Edge) -> None:
    async with edge.open(chat()) as exchange:
        assert await exchange.respond([b'{"usage": {', b"oops"]) == [b'{"usage": {', b"oops"]
    assert not edge.fleet.seen.completions[0].usage_reported


async def test_a_compressed_answer_passes(edge: Edge) -> None:
    edge.fleet.configure(rewrites=[RewriteRule("gpt-4", (RewriteTarget(MODEL),))])
    headers = {"accept-encoding": "gzip, br"}
    async with edge.open(chat(model="gpt-4", stream=True), headers) as exchange:
        assert "accept-encoding" in exchange.reply.removed
        zipped = b'\x1f\x8b"model":"llama"\n'
        assert await exchange.respond([zipped], {**SSE, "content-encoding": "gzip"}) == [zipped]


@pytest.mark.parametrize(
    ("status", "reason"),
    [("500", "http_error"), ("404", "http_error"), ("200", "ok"), ("x", "http_error")],
)
async def test_errors_of_the_replica_are_counted(edge: Edge, status: str, reason: str) -> None:
    async with edge.open(chat()) as exchange:
        await exchange.respond([b"{}"], {":status": status, "status": "200"})
    done = edge.fleet.seen.completions[0]
    assert (done.status, done.reason) == (int(status) if status.isdigit() else 500, reason)


async def test_the_endpoint_that_really_served(edge: Edge) -> None:
    async with edge.open(chat(), {"x-session-id": "s"}) as exchange:
        first, second, _ = exchange.reply.addresses
        await exchange.respond([b"{}"], served=second)
        assert exchange.response_headers["x-session-token"]
    assert edge.fleet.seen.completions[0].endpoint == second
    assert (await edge.ask(chat("again"), {"x-session-id": "s"})).addresses[0] == second != first


async def test_a_response_without_body(edge: Edge) -> None:
    call_headers = header_map({":status": "204"})
    async with edge.open(chat()) as exchange:
        request = ProcessingRequest()
        request.response_headers.headers.CopyFrom(call_headers)
        request.response_headers.end_of_stream = True
        await exchange.call.write(request)
        assert (await exchange.receive()).HasField("response_headers")
        await exchange.close()
    done = edge.fleet.seen.completions[0]
    assert (done.status, done.reason) == (204, "ok")
    assert done.endpoint in {address(number) for number in (1, 2, 3)}


async def test_what_clients_are_shown_of_the_decision(edge: Edge) -> None:
    edge.fleet.configure(shows_decisions=True, policy=PolicySpec("auto"))
    for place in (0, 1):
        async with edge.open(chat(stream=True)) as exchange:
            served = exchange.reply.addresses[place]
            await exchange.respond([b"{}"], served=served)
        headers = exchange.response_headers
        assert headers["x-penstock-endpoint"] == served
        assert ("x-penstock-predicted-ttft-ms" in headers) == (place == 0)
    edge.fleet.configure()
    async with edge.open(chat()) as exchange:
        await exchange.respond([b"{}"])
    assert "x-penstock-endpoint" not in exchange.response_headers


async def test_a_request_without_an_id_gets_one(edge: Edge) -> None:
    async with edge.open(chat()) as exchange:
        made = exchange.reply.headers["x-request-id"]
        await exchange.respond([b"{}"], {**JSON, "server": "uvicorn"})
    assert exchange.response_headers["x-request-id"] == made
    assert exchange.response_headers["request-id"] == made
    assert exchange.response_removed == ["server"], "which names the replica's software"
    (done,) = edge.fleet.seen.completions
    assert done.labels.request_id == made
    async with edge.open(chat(), {"x-request-id": "theirs"}) as exchange:
        await exchange.respond([b"{}"])
    assert exchange.response_headers["request-id"] == "theirs"
    assert exchange.response_removed == []


async def test_answers_of_the_pickers_own_have_the_id_too(edge: Edge) -> None:
    for path, body in (("/v1/models", None), ("/v1/chat/completions", b"no JSON")):
        reply = await edge.ask(body, path=path)
        assert reply.status in (200, 400)
        assert reply.headers["x-request-id"] == reply.headers["request-id"] != ""


async def test_the_list_of_models_is_observed(edge: Edge) -> None:
    await edge.ask(None, path="/v1/models")
    (answered,) = edge.fleet.seen.answers
    assert (answered.status, answered.labels.path) == (200, "/v1/models")
    assert not edge.fleet.seen.rejections


@pytest.mark.parametrize("sent", [0, 10], ids=["no body yet", "a part of it"])
@pytest.mark.parametrize(
    ("status", "reason"),
    [("408", "request_timeout"), ("413", "request_too_large"), ("403", "refused_by_proxy")],
)
async def test_an_answer_of_the_gateways_own_passes_before_the_request_is_whole(
    edge: Edge, sent: int, status: str, reason: str
) -> None:
    call = edge.call()
    await call.write(edge.first(POST, Metadata(), ends=False))
    if sent:
        await call.write(ProcessingRequest(request_body=HttpBody(body=chat()[:sent])))
    answered = HttpHeaders(headers=header_map({**JSON, ":status": status}))
    await call.write(ProcessingRequest(response_headers=answered))
    assert (await next_message(call)).HasField("response_headers")
    # What was on its way to us is no business of the answer.
    await call.write(ProcessingRequest(request_body=HttpBody(body=b"more")))
    for body in (b'{"error":', b'"timeout"}', b""):
        await call.write(ProcessingRequest(response_body=HttpBody(body=body)))
        part = (await next_message(call)).response_body.response.body_mutation
        assert part.streamed_response.body == body
    await call.write(ProcessingRequest(response_trailers=HttpTrailers()))
    assert (await next_message(call)).HasField("response_trailers")
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert [(r.status, r.reason) for r in edge.fleet.seen.rejections] == [(int(status), reason)]
    assert edge.fleet.seen.rejections[0].labels.path == "/v1/chat/completions"
    assert not edge.fleet.seen.completions
    assert edge.fleet.is_settled


@pytest.mark.parametrize("failure", [BLAMES[0], FAILURES[0]], ids=lambda failure: failure.name)
async def test_what_an_engine_blames_requests_for_leaves_no_replica_out(
    edge: Edge, failure: Failure
) -> None:
    picker = edge.fleet.picker
    for _ in range(3 * DEFAULT_RULES.consecutive_failures):
        async with edge.open(chat(stream=True)) as exchange:
            await exchange.respond([failure.body], SSE)
    assert bool(picker.pools[POOL].breakers.tripped(picker.now())) == (failure in FAILURES)
