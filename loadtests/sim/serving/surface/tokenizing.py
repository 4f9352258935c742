"""POST /tokenize and /detokenize."""

from aiohttp import web

from loadtests.sim.serving import tokens
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, Body
from loadtests.sim.serving.surface.generation import find_model
from loadtests.sim.serving.surface.prompts import read_prompts
from loadtests.sim.serving.surface.reply import json_reply


async def tokenize(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Token ids of a prompt or of a conversation."""
    body = Body.parse(await request.read())
    find_model(replica, body)
    if body.get("messages") is not None:
        prompt = tokens.render_chat(
            body.objects("messages"),
            body.get("tools"),
            generation_prompt=body.flag("add_generation_prompt", default=True),
        )
    else:
        body.need("prompt")
        prompt = tokens.encode(body.text("prompt"))
    ids = tokens.to_ids(prompt)
    pieces = None
    if body.flag("return_token_strs"):
        width = tokens.TOKEN_BYTES
        pieces = [tokens.decode(prompt[i : i + width]) for i in range(0, len(prompt), width)]
    return json_reply(
        {
            "count": len(ids),
            "max_model_len": replica.max_model_tokens,
            "tokens": ids,
            "token_strs": pieces,
        },
        request,
    )


async def detokenize(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Text of token ids."""
    body = Body.parse(await request.read())
    find_model(replica, body)
    ids = body.need("tokens")
    if ids == []:
        return json_reply({"prompt": ""}, request)
    if not isinstance(ids, list) or not isinstance(ids[0], int):
        raise ApiError("tokens: Input should be a list of token ids", param="tokens")
    return json_reply({"prompt": tokens.decode(read_prompts(ids, "tokens")[0])}, request)
