"""POST /v1/chat/completions."""

import orjson
from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import Choice, Generation, Sampling, choices_wanted
from loadtests.sim.serving.surface.reply import json_reply

_DONE = b"data: [DONE]\n\n"


async def chat_completions(
    replica: SimulatedReplica, request: web.BaseRequest
) -> web.StreamResponse:
    """Answer a conversation, streamed or whole."""
    body = Body.parse(await request.read())
    prompt = tokens.render_chat(
        body.objects("messages"),
        body.get("tools"),
        generation_prompt=body.flag("add_generation_prompt", default=True),
    )
    max_tokens = body.integer("max_completion_tokens", least=1)
    if max_tokens is None:
        max_tokens = body.integer("max_tokens", least=1)
    sampling = Sampling.read(body, max_tokens, choices=choices_wanted(body))
    options = StreamOptions.read(body)
    generation = Generation(replica, request, body, [prompt], sampling, prefix="chatcmpl")
    if body.flag("stream"):
        return await generation.stream(request, _ChatStream(generation, options))
    await generation.run()
    return json_reply(_whole(generation), request)


class StreamOptions:
    """Which usage a stream reports."""

    def __init__(self, include_usage: bool, continuous_usage: bool) -> None:
        self.include_usage = include_usage
        self.continuous_usage = include_usage and continuous_usage

    @classmethod
    def read(cls, body: Body) -> "StreamOptions":
        """Raises ApiError when the request does not stream but has stream options."""
        if body.get("stream_options") is not None and not body.flag("stream"):
            raise ApiError(
                "Stream options can only be defined when `stream=True`.", param="stream_options"
            )
        options = body.part("stream_options")
        return cls(options.flag("include_usage"), options.flag("continuous_usage_stats"))


class _ChatStream:
    def __init__(self, generation: Generation, options: StreamOptions) -> None:
        self._generation = generation
        self._options = options
        identity = {
            "id": generation.request_id,
            "object": "chat.completion.chunk",
            "created": generation.created_s,
            "model": generation.model,
        }
        # Everything but the token is the same in each chunk, so chunks are put together as text.
        self._opening = f"data: {orjson.dumps(identity).decode()[:-1]},"
        self._plain = '"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
        self._starts = [
            f'{self._opening}"choices":[{{"index":{choice.index},"delta":{{"content":"'
            for choice in generation.choices
        ]

    def head(self) -> bytes:
        chunks = (
            f'{self._opening}"choices":[{{"index":{choice.index},"delta":{{"role":"assistant",'
            f'"content":""}},"logprobs":null,"finish_reason":null}}]{self._usage_so_far()},'
            '"prompt_token_ids":null}\n\n'
            for choice in self._generation.choices
        )
        return "".join(chunks).encode()

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        plan, start = choice.plan, self._starts[choice.index]
        plain = self._plain
        if self._options.continuous_usage:
            plain = f"{plain[:-3]}{self._usage_so_far()}}}\n\n"
        ends = choice.ends(last)
        chunks = [start + plan.piece(i, i + 1) + plain for i in range(first, last - ends)]
        if ends:
            answer = choice.answer
            end = plan.piece(max(first, last - 1), last)
            stop_reason = orjson.dumps(answer.stop_reason).decode()
            chunks.append(
                f'{start}{end}"}},"logprobs":null,"finish_reason":'
                f'"{answer.finish_reason}","stop_reason":{stop_reason},"token_ids":null}}]'
                f"{self._usage_so_far()}}}\n\n"
            )
        return "".join(chunks).encode()

    def tail(self) -> bytes:
        if not self._options.include_usage:
            return _DONE
        usage = orjson.dumps(self._generation.usage().openai()).decode()
        return f'{self._opening}"choices":[],"usage":{usage}}}\n\n'.encode() + _DONE

    def _usage_so_far(self) -> str:
        if not self._options.continuous_usage:
            return ""
        return f',"usage":{orjson.dumps(self._generation.usage().so_far()).decode()}'


def _whole(generation: Generation) -> dict[str, object]:
    return {
        "id": generation.request_id,
        "object": "chat.completion",
        "created": generation.created_s,
        "model": generation.model,
        "choices": [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": choice.answer.text,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [],
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": choice.answer.finish_reason,
                "stop_reason": choice.answer.stop_reason,
                "token_ids": None,
            }
            for choice in generation.choices
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": generation.usage().openai(),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
    }
