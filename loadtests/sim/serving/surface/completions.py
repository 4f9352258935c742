"""POST /v1/completions."""

import orjson
from aiohttp import web

from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import Body
from loadtests.sim.serving.surface.chat import StreamOptions
from loadtests.sim.serving.surface.generation import Choice, Generation, Sampling, choices_wanted
from loadtests.sim.serving.surface.prompts import read_prompts
from loadtests.sim.serving.surface.reply import json_reply

_DEFAULT_MAX_TOKENS = 16
_DONE = b"data: [DONE]\n\n"


async def completions(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Continue one or several prompts, streamed or whole."""
    body = Body.parse(await request.read())
    prompts = read_prompts(body.need("prompt"), "prompt")
    max_tokens = body.integer("max_tokens", _DEFAULT_MAX_TOKENS, least=1)
    sampling = Sampling.read(body, max_tokens, choices=choices_wanted(body))
    options = StreamOptions.read(body)
    generation = Generation(replica, request, body, prompts, sampling, prefix="cmpl")
    if body.flag("stream"):
        return await generation.stream(request, _CompletionStream(generation, options))
    await generation.run()
    return json_reply(_whole(generation), request)


class _CompletionStream:
    def __init__(self, generation: Generation, options: StreamOptions) -> None:
        self._generation = generation
        self._options = options
        identity = {
            "id": generation.request_id,
            "object": "text_completion",
            "created": generation.created_s,
            "model": generation.model,
        }
        self._opening = f"data: {orjson.dumps(identity).decode()[:-1]},"

    def head(self) -> bytes:
        return b""

    def tokens(self, choice: Choice, first: int, last: int) -> bytes:
        plan = choice.plan
        start = f'{self._opening}"choices":[{{"index":{choice.index},"text":"'
        ids = '"prompt_token_ids":null,"token_ids":null}]'
        usage = self._usage_so_far()
        plain = f'","logprobs":null,"finish_reason":null,"stop_reason":null,{ids}{usage}}}\n\n'
        ends = choice.ends(last)
        chunks = [start + plan.piece(i, i + 1) + plain for i in range(first, last - ends)]
        if ends:
            answer = choice.answer
            end = plan.piece(max(first, last - 1), last)
            stop_reason = orjson.dumps(answer.stop_reason).decode()
            chunks.append(
                f'{start}{end}","logprobs":null,"finish_reason":'
                f'"{answer.finish_reason}","stop_reason":{stop_reason},{ids}{usage}}}\n\n'
            )
        return "".join(chunks).encode()

    def tail(self) -> bytes:
        if not self._options.include_usage:
            return _DONE
        usage = orjson.dumps(self._generation.usage().openai()).decode()
        return f'{self._opening}"choices":[],"usage":{usage}}}\n\n'.encode() + _DONE

    def _usage_so_far(self) -> str:
        if not self._options.continuous_usage:
            return ',"usage":null'
        return f',"usage":{orjson.dumps(self._generation.usage().so_far()).decode()}'


def _whole(generation: Generation) -> dict[str, object]:
    return {
        "id": generation.request_id,
        "object": "text_completion",
        "created": generation.created_s,
        "model": generation.model,
        "choices": [
            {
                "index": choice.index,
                "text": choice.answer.text,
                "logprobs": None,
                "finish_reason": choice.answer.finish_reason,
                "stop_reason": choice.answer.stop_reason,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
            }
            for choice in generation.choices
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": generation.usage().openai(),
        "kv_transfer_params": None,
    }
