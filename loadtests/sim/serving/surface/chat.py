"""POST /v1/chat/completions."""

from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import Body
from loadtests.sim.serving.surface.choices import ChoiceFormat, Extras, answer, calls_of
from loadtests.sim.serving.surface.logprobs import LogprobsWanted
from loadtests.sim.serving.surface.reply import Reply
from loadtests.sim.serving.surface.tools import chat_tools

_FORMAT = ChoiceFormat(
    id_prefix="chatcmpl",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    text_start='"delta":{"content":"',
    text_end='"}',
    unfinished="",
    choice_end=',"token_ids":null}]',
    no_usage="",
    said=lambda answer, call: {
        "message": {
            "role": "assistant",
            "content": None if answer.tool else answer.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": calls_of(answer, call),
            "reasoning": None,
        }
    },
    first_chunk='"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]',
    first_chunk_end=',"prompt_token_ids":null}',
    fields={"prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None},
    chat=True,
)


async def chat_completions(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
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
    extras = Extras(tools=chat_tools(body), logprobs=LogprobsWanted.of_chat(body))
    return await answer(replica, request, body, [prompt], max_tokens, _FORMAT, extras)
