"""The probe's HTTP client, for vLLM's OpenAI API and /metrics."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

from loadtests.sim.calibration.probe import Facts, ProbeAnswer, ProbeError, ProbeRequest

KEY_VARIABLE = "OPENAI_API_KEY"
_TIMEOUT_S = 120.0
_WORDS = ("time", "way", "year", "work", "day", "part", "hand", "world", "point", "state", "word")


class HttpTarget:
    """A server behind ``url``, the address without /v1. Enter it to connect.

    The bearer token is that of OPENAI_API_KEY, if it is set. ``seed`` makes the prompts: two probes
    with one seed send the same prompts, so the second would find those of the first cached.
    """

    def __init__(self, url: str, *, model: str = "", seed: int | None = None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._rng = random.Random(seed)
        self._tokens_per_word = 1.3
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        key = os.environ.get(KEY_VARIABLE)
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=_TIMEOUT_S),
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def now_s(self) -> float:
        """A steady clock."""
        return time.perf_counter()

    async def facts(self) -> Facts:
        """What /v1/models and /metrics say. Raises ProbeError."""
        page = await self._get("/v1/models")
        try:
            listed = orjson.loads(page)["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise ProbeError(f"{self._url}/v1/models: not a list of models") from error
        served = {str(each["id"]): each for each in listed if not each.get("parent")}
        if not served:
            raise ProbeError(f"{self._url}/v1/models: no base model is listed")
        model = self._model if self._model in served else next(iter(served))
        self._model = model
        labels = _cache_config(await self._get("/metrics"))
        try:
            # vLLM keeps one block as a placeholder.
            blocks, size = int(labels["num_gpu_blocks"]) - 1, int(labels["block_size"])
        except (KeyError, ValueError) as error:
            raise ProbeError(
                f"{self._url}/metrics: vllm:cache_config_info with num_gpu_blocks and block_size "
                "is missing: is this vLLM?"
            ) from error
        share = labels.get("gpu_memory_utilization")
        card = served[model]
        return Facts(
            model,
            str(card.get("root") or model),
            int(card.get("max_model_len") or blocks * size),
            blocks,
            size,
            _number(share),
        )

    async def group(self, asks: Sequence[ProbeRequest]) -> list[ProbeAnswer]:
        """Send all requests at their times. Raises ProbeError."""
        begin_s = time.perf_counter()
        bodies = [(ask, self._body(ask)) for ask in asks]
        lead_s = time.perf_counter() - begin_s
        try:
            async with asyncio.TaskGroup() as together:
                tasks = [
                    together.create_task(self._ask(body, begin_s + lead_s + ask.after_s))
                    for ask, body in bodies
                ]
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, ProbeError):
                raise first from errors
            if isinstance(first, aiohttp.ClientError | TimeoutError):
                raise ProbeError(f"{self._url}: {first!r}") from errors
            raise
        answers = [task.result() for task in tasks]
        for ask, answer in zip(asks, answers, strict=True):
            if len(answer.token_s) < ask.output_tokens:
                raise ProbeError(
                    f"{self._url}: an answer ended after {len(answer.token_s)} of "
                    f"{ask.output_tokens} tokens, though ignore_eos was asked for"
                )
        return answers

    async def _ask(self, body: bytes, at_s: float) -> ProbeAnswer:
        assert self._session is not None
        if (wait_s := at_s - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        answer = ProbeAnswer(time.perf_counter(), 0)
        words = body.count(b" ")
        async with self._session.post(
            f"{self._url}/v1/completions",
            data=body,
            headers={"Content-Type": "application/json"},
        ) as response:
            if response.status != 200:
                text = (await response.text())[:300]
                raise ProbeError(f"{self._url}/v1/completions: {response.status}: {text}")
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                seen_s = time.perf_counter()
                _note(answer, orjson.loads(line[6:]), seen_s)
        if words > 32 and answer.prompt_tokens:
            self._tokens_per_word = answer.prompt_tokens / words
        return answer

    def _body(self, ask: ProbeRequest) -> bytes:
        words = max(round(ask.prompt_tokens / self._tokens_per_word) - 4, 1)
        begin = f"{self._rng.getrandbits(48):012x}"
        prompt = " ".join([begin, *self._rng.choices(_WORDS, k=words)])
        return orjson.dumps(
            {
                "model": self._model,
                "prompt": prompt,
                "max_tokens": ask.output_tokens,
                "min_tokens": ask.output_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
        )

    async def _get(self, path: str) -> str:
        assert self._session is not None
        try:
            async with self._session.get(self._url + path) as response:
                if response.status != 200:
                    raise ProbeError(f"{self._url}{path}: {response.status} {response.reason}")
                return await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProbeError(f"{self._url}{path}: {error}") from error


def _note(answer: ProbeAnswer, chunk: Mapping[str, object], seen_s: float) -> None:
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        answer.prompt_tokens = int(usage["prompt_tokens"])
        fresh = int(usage["completion_tokens"]) - len(answer.token_s)
    else:
        fresh = 1 if chunk.get("choices") else 0
    answer.token_s += [seen_s] * fresh


def _cache_config(page: str) -> Mapping[str, str]:
    for family in text_string_to_metric_families(page):
        if family.name == "vllm:cache_config_info":
            return family.samples[0].labels
    return {}


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
