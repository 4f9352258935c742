"""Whatever a client or a gateway sends: no 500, no exception, and nothing stays held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import orjson
from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, Metadata
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
)
from google.protobuf.json_format import ParseDict
from hypothesis import example, given, settings
from hypothesis import strategies as st

from picker import names
from picker.core import Picker
from picker.request.answer import Answer, Decision
from picker.server import wire
from picker.server.exchange import StandardExchange
from picker.server.ext_proc import Context
from picker.server.fast import FastPath
from picker.settings import RewriteRule, RewriteTarget
from tests.picker.accounts import Accounts
from tests.picker.fleet import MODEL, POOL, Fleet, fleet
from tests.picker.server.h2_client import Client

PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
    *("/v1/messages", "/v1/messages/count_tokens", "/v1/rerank", "/v1/score", "/tokenize"),
    *("/detokenize", "/generate", "/inference/v1/generate", "/generative_scoring"),
    *("/invocations", "/v1/completions/render", "/v1/audio/speech", "/v1/audio/transcriptions"),
    *("/v1/images/edits", "/openai/deployments/llama/chat/completions", "/openai/deployments/"),
    *("/v1/models", f"/v1/models/{MODEL}", "/", "", "*", "//", "/v1/chat/completions?x=%3F%00"),
    *("http://x/v1/completions", "/%", "/%ff%fe", "/é", "/v1/chat/completions/%2e%2e"),
)
HEADERS = (
    *(names.SESSION_ID, names.SESSION_TOKEN, names.REQUEST_ID, names.DESTINATION),
    *names.OBJECTIVE,
    *names.FAIRNESS_ID,
    *names.MODEL_REWRITE,
    *names.ORIGINAL_PATHS,
    *names.CLIENT_MAY_NOT_SET,
    *("prefer", "authorization", "x-api-key", "api-key", "content-type", "content-encoding"),
    *("content-length", "transfer-encoding", "accept-encoding", "x-llm-d-slo-ttft-ms", "host"),
    *("x-slo-tpot-ms", "x-penstock-user", "traceparent", "baggage", "expect", "te"),
)
NASTY = (
    *(b"", b"\xe9", "é😀".encode(), b"\xff\xfe", b"!!!!", b"YWJj", b"9" * 400, b"-1", b"1e400"),
    *(b"NaN", b"if-available", b"gzip", b"gzip, deflate, zstd", b"br", b"identity", b"x" * 9_000),
    *(b"application/json", b"multipart/form-data; boundary=x", b"Bearer", b"Bearer x", b"\x00"),
    *(b"10.0.0.1:8000", b"nope", MODEL.encode(), b"eyJ.a.b", b"%", b"{}", b"multipart/form-data"),
)
VALUES = st.sampled_from(NASTY) | st.binary(max_size=30)
NUMBERS = st.sampled_from(
    [0, -1, 1, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 1e308, -1e308, 0.5, 10**400, -(10**30)]
)
WORDS = st.sampled_from(
    [
        MODEL,
        "alias",
        "user",
        "text",
        "image_url",
        "tool_result",
        "9" * 400,
        "9" * 4_400,
        "true",
        "é",
    ]
)
MEMBERS = (
    *("model", "messages", "prompt", "input", "text", "input_ids", "token_ids", "query", "items"),
    *("documents", "text_1", "text_2", "queries", "data_1", "data_2", "tools", "functions"),
    *("stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n"),
    *("sampling_params", "max_new_tokens", "lora_path", "user", "safety_identifier", "metadata"),
    *("cache_salt", "session_id", "prompt_cache_key", "priority", "system", "instructions"),
    *("image_data", "item_first", "prompt_embeds", "role", "content", "type", "include_usage"),
    *("continuous_usage_stats", "user_id", "url", "name", "tool_calls", "background", "store"),
)
JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=5) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(MEMBERS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)
LIKELY: st.SearchStrategy[object] = st.fixed_dictionaries(
    {"model": st.sampled_from([MODEL, "alias"])},
    optional={
        "messages": st.just([{"role": "user", "content": "hi"}]) | JSON,
        "stream": st.just(value=True),
        **dict.fromkeys(("prompt", "input", "text", "query"), st.just("hi") | JSON),
        **dict.fromkeys(
            ("max_tokens", "n", "stream_options", "sampling_params", "documents", "lora_path"), JSON
        ),
    },
)


def _written(value: object) -> bytes:
    """JSON as no library of ours writes it: numbers of any length, NaN."""
    if isinstance(value, dict):
        members = (orjson.dumps(key) + b":" + _written(one) for key, one in value.items())
        return b"{" + b",".join(members) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_written, value)) + b"]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value).encode()
    return orjson.dumps(value)


DEEP = st.sampled_from([200, 300, 1_000, 1_100]).map(
    lambda depth: (
        b'{"mod\\u0065l":"alias","messages":[{"role":"user","content":"x"}],"stream":true,'
        b'"stream_options":{"a":%s%s}}' % (b"[" * depth, b"]" * depth)
    )
)
SIMPLE = b'{"model":"%s","prompt":"x"}' % MODEL.encode()
HUGE = b'{"model":"alias","prompt":"x","max_tokens":"%s","n":"%s"}' % (b"9" * 400, b"9" * 400)
BODIES = (JSON | LIKELY).map(_written) | DEEP | st.binary(max_size=60)
HEADS = st.dictionaries(st.sampled_from(HEADERS), VALUES, max_size=4)
METHODS = st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE", "PATCH", "", "é"])
METADATA: st.SearchStrategy[dict[str, object]] = st.dictionaries(
    st.sampled_from([names.SUBSET_NAMESPACE, names.LB_NAMESPACE, names.JWT_NAMESPACE]),
    st.dictionaries(
        st.sampled_from([names.SUBSET_KEY, names.DESTINATION, names.CLAIMS, names.CLAIMS_FAILED]),
        st.none()
        | st.booleans()
        | st.sampled_from([0.5, 1e300, "10.0.0.1:8000", "", ",", "é"])
        | st.lists(st.sampled_from(["10.0.0.2", 1, None, {"a": [1]}]), max_size=2)
        | st.just({"tenant": 1e308, "message": "x"}),
    ),
    max_size=2,
)


def made() -> tuple[Fleet, Accounts]:
    accounts = Accounts()
    one = fleet(limiter=accounts)
    one.configure(rewrites=[RewriteRule("alias", (RewriteTarget(MODEL, pool=POOL),))])
    return one, accounts


def first(
    path: str, method: str, headers: dict[str, bytes], metadata: dict[str, object], *, last: bool
) -> ProcessingRequest:
    """The headers of a request as a gateway sends them."""
    each = {":path": path.encode(), ":method": method.encode(), **headers}
    return ProcessingRequest(
        request_headers=HttpHeaders(
            headers=HeaderMap(headers=[HeaderValue(key=k, raw_value=v) for k, v in each.items()]),
            end_of_stream=last,
        ),
        metadata_context=ParseDict({"filterMetadata": metadata}, Metadata()),
    )


def nothing_is_held(one: Fleet, accounts: Accounts) -> None:
    assert one.is_settled
    assert accounts.reserved == accounts.released + len(accounts.settled)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.sampled_from(PATHS) | st.text(max_size=12), METHODS, HEADS, BODIES, METADATA)
@example("/v1/completions", "POST", {names.SESSION_TOKEN: b"\xe9"}, SIMPLE, {})
@example("/v1/completions", "POST", {}, HUGE, {})
async def test_any_request_has_a_clean_end(
    path: str, method: str, headers: dict[str, bytes], body: bytes, metadata: dict[str, object]
) -> None:
    one, accounts = made()
    head = wire.request_head(first(path, method, headers, metadata, last=False), 1000.0)
    begun = await one.picker.begin(head)
    outcome = begun if isinstance(begun, Answer) else await one.picker.offer(begun, body)
    if isinstance(outcome, Decision):
        one.picker.abandon(outcome)
    else:
        assert 200 <= outcome.status < 500 or outcome.status == 503
        orjson.loads(outcome.body)

    nothing_is_held(one, accounts)


class Gateway:
    """The other end of an ext_proc stream: what it sends, and what it gets."""

    def __init__(self, messages: Sequence[ProcessingRequest]) -> None:
        self._messages = list(messages)
        self.got: list[ProcessingResponse] = []

    async def read(self) -> object:
        return self._messages.pop(0) if self._messages else None

    async def write(self, message: bytes) -> None:
        self.got.append(ProcessingResponse.FromString(message))

    async def exchange(self, picker: Picker, *, fast: bool) -> None:
        head = await self.read()
        assert isinstance(head, ProcessingRequest)
        if fast:
            await self._fast(picker, head)
        else:
            await StandardExchange(picker, cast("Context", self), head).run()

    async def _fast(self, picker: Picker, head: ProcessingRequest) -> None:
        path = FastPath(picker)
        client = Client(lambda call: path.exchange(call, lambda: None))
        sent = [one.SerializeToString() for one in (head, *self._messages)]
        stream = client.begin(*sent, end=True)
        client.pass_on()
        await path.close()
        client.pass_on()
        for one in client.streams[stream].messages:
            await self.write(one)


STATUSES = st.sampled_from(
    [
        b"200",
        b"200",
        b"404",
        b"",
        "²".encode(),
        b"9" * 400,
        b"9" * 5_000,
        b"-1",
        b"2OO",
        b"99",
        b"1e3",
    ]
)
ANSWERS = st.sampled_from(
    [
        b'{"usage":{"prompt_tokens":1e400,"completion_tokens":-1}}',
        b'{"usage":[{}],"model":"llama"}',
        b'data: {"usage":{"prompt_tokens":18446744073709551615}}\n\n',
        b'data: {"choices":[[]],"model":"llama"}\n\ndata: [DONE]\n\n',
        b"data: " + b"[" * 2_000 + b"\n\n",
        b"\xff\xfe\x00",
        b"",
    ]
) | JSON.map(_written)
KINDS = st.sampled_from(
    [b"application/json", b"text/event-stream", b"", b"\xff", b"text/event-stream; charset=\xe9"]
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    fast=st.booleans(),
    head=HEADS,
    body=LIKELY.map(_written) | BODIES,
    metadata=METADATA,
    cut=st.integers(0, 40),
    status=STATUSES,
    kind=KINDS,
    answer=st.lists(ANSWERS, max_size=3),
    trailers=st.booleans(),
    sent=st.integers(1, 9),
)
async def test_any_exchange_has_a_clean_end(
    *,
    fast: bool,
    head: dict[str, bytes],
    body: bytes,
    metadata: dict[str, object],
    cut: int,
    status: bytes,
    kind: bytes,
    answer: list[bytes],
    trailers: bool,
    sent: int,
) -> None:
    one, accounts = made()
    said = {":status": status, "content-type": kind}
    bodies = [body] if fast else [body[:cut], body[cut:]]
    messages = [
        first("/v1/completions", "POST", head, metadata, last=False),
        *(
            ProcessingRequest(
                request_body=HttpBody(body=part, end_of_stream=number == len(bodies) - 1)
            )
            for number, part in enumerate(bodies)
        ),
        ProcessingRequest(
            response_headers=HttpHeaders(
                headers=HeaderMap(
                    headers=[HeaderValue(key=k, raw_value=v) for k, v in said.items()]
                )
            )
        ),
        *(ProcessingRequest(response_body=HttpBody(body=part)) for part in answer),
        ProcessingRequest(response_trailers=HttpTrailers())
        if trailers
        else ProcessingRequest(response_body=HttpBody(end_of_stream=True)),
    ]
    gateway = Gateway(messages[:sent])
    await gateway.exchange(one.picker, fast=fast)
    answers = [m.immediate_response for m in gateway.got if m.HasField("immediate_response")]
    assert all(a.status.code < 500 or a.status.code == 503 for a in answers)
    if fast:  # the decision stands until Envoy's access log reports the end
        for decided in gateway.got:
            ours = decided.dynamic_metadata.fields.get(names.PENSTOCK_NAMESPACE)
            if ours is not None and "id" in ours.struct_value.fields:
                one.picker.flights.drop(ours.struct_value.fields["id"].string_value)
    nothing_is_held(one, accounts)
