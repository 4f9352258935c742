"""Requests that compute a prompt and generate nothing: embeddings, rerank, score."""

import base64
import random
import time
from array import array
from collections.abc import Sequence as Ordered

import xxhash
from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.job import EngineJob
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import check_prompt, find_model, make_request_id
from loadtests.sim.serving.surface.prompts import read_prompts
from loadtests.sim.serving.surface.reply import json_reply
from loadtests.sim.serving.tokens import Tokens

_DIMENSIONS = 64
_MOST_DIMENSIONS = 16384


async def embeddings(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """A unit vector for each input, the same for the same input."""
    body = Body.parse(await request.read())
    prompts = read_prompts(body.need("input"), "input")
    dimensions = body.integer("dimensions", _DIMENSIONS, least=1, most=_MOST_DIMENSIONS)
    encoding = body.text("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise ApiError(
            f"encoding_format: Input should be 'float' or 'base64', got {encoding!r}",
            param="encoding_format",
        )
    model = await _compute(replica, body, prompts)
    return json_reply(
        {
            "id": make_request_id("embd", request),
            "object": "list",
            "created": int(time.time()),
            "model": model,
            "data": [
                {
                    "index": index,
                    "object": "embedding",
                    "embedding": _encoded(_vector(prompt, dimensions or _DIMENSIONS), encoding),
                }
                for index, prompt in enumerate(prompts)
            ],
            "usage": _usage(prompts),
        },
        request,
    )


async def rerank(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Documents, ordered by the words that they share with a query."""
    body = Body.parse(await request.read())
    body.need("query")
    query = body.text("query")
    documents = _texts(body.need("documents"), "documents")
    top = body.integer("top_n", least=0) or len(documents)
    prompts = [tokens.encode(query + document) for document in documents]
    model = await _compute(replica, body, prompts)
    relevance = [_similarity(query, document) for document in documents]
    order = sorted(range(len(documents)), key=lambda index: -relevance[index])
    return json_reply(
        {
            "id": make_request_id("rerank", request),
            "model": model,
            "usage": {name: _usage(prompts)[name] for name in ("prompt_tokens", "total_tokens")},
            "results": [
                {
                    "index": index,
                    "document": {"text": documents[index], "multi_modal": None},
                    "relevance_score": relevance[index],
                }
                for index in order[:top]
            ],
        },
        request,
    )


async def score(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Similarity of pairs of texts; one text on the left goes with all on the right."""
    body = Body.parse(await request.read())
    left = _texts(_either(body, "queries", "text_1"), "queries")
    right = _texts(_either(body, "documents", "text_2"), "documents")
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise ApiError("Input lengths must be either 1:1, 1:N or N:N", param="queries")
    prompts = [tokens.encode(one + other) for one, other in zip(left, right, strict=True)]
    model = await _compute(replica, body, prompts)
    return json_reply(
        {
            "id": make_request_id("score", request),
            "object": "list",
            "created": int(time.time()),
            "model": model,
            "data": [
                {"index": index, "object": "score", "score": _similarity(one, other)}
                for index, (one, other) in enumerate(zip(left, right, strict=True))
            ],
            "usage": _usage(prompts),
        },
        request,
    )


async def _compute(replica: SimulatedReplica, body: Body, prompts: Ordered[Tokens]) -> str:
    """Run the prompts through the engine. Returns the model name for the reply."""
    adapter, model = find_model(replica, body)
    for prompt in prompts:
        if not prompt:
            raise ApiError("The prompt cannot be empty", param="input")
        check_prompt(tokens.count(prompt), replica.max_model_tokens)
    cache_salt = body.text("cache_salt")
    path = replica.adapter_path(adapter)
    submission = replica.engine.submit(
        [
            EngineJob(prompt, adapter=adapter, adapter_path=path, cache_salt=cache_salt)
            for prompt in prompts
        ]
    )
    try:
        await submission.finished()
    finally:
        submission.abort()
    return model


def _either(body: Body, name: str, older_name: str) -> object:
    value = body.get(older_name)
    return body.need(name) if value is None else value


def _texts(value: object, name: str) -> list[str]:
    items = value if isinstance(value, list) else [value]
    texts = [item.get("text") if isinstance(item, dict) else item for item in items]
    strings = [text for text in texts if isinstance(text, str)]
    if not strings or len(strings) < len(texts):
        raise ApiError(f"{name}: Input should be a string or a list of strings", param=name)
    return strings


def _similarity(one: str, other: str) -> float:
    left, right = set(one.lower().split()), set(other.lower().split())
    return (1 + len(left & right)) / (2 + len(left | right))


def _vector(prompt: bytes, dimensions: int) -> list[float]:
    rng = random.Random(xxhash.xxh3_64_intdigest(prompt))
    values = [rng.gauss(0.0, 1.0) for _ in range(dimensions)]
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]


def _encoded(vector: list[float], encoding: str) -> object:
    return vector if encoding == "float" else base64.b64encode(array("f", vector)).decode()


def _usage(prompts: Ordered[Tokens]) -> dict[str, object]:
    prompt_tokens = sum(map(tokens.count, prompts))
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
