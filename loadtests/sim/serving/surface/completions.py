"""POST /v1/completions."""

from aiohttp import web

from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import Body
from loadtests.sim.serving.surface.choices import ChoiceFormat, Extras, answer
from loadtests.sim.serving.surface.logprobs import LogprobsWanted
from loadtests.sim.serving.surface.prompts import read_prompts
from loadtests.sim.serving.surface.reply import Reply

_DEFAULT_MAX_TOKENS = 16
_FORMAT = ChoiceFormat(
    id_prefix="cmpl",
    whole="text_completion",
    chunk="text_completion",
    text_start='"text":"',
    text_end='"',
    unfinished=',"stop_reason":null',
    choice_end=',"prompt_token_ids":null,"token_ids":null}]',
    no_usage=',"usage":null',
    said=lambda answer, _: {"text": answer.text},
    choice_fields={"prompt_logprobs": None, "prompt_token_ids": None},
    fields={"kv_transfer_params": None},
)


async def completions(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Continue one or several prompts, streamed or whole."""
    body = Body.parse(await request.read())
    prompts = read_prompts(body.need("prompt"), "prompt")
    echo = body.flag("echo")
    # An echo without an answer tells how likely a text is.
    max_tokens = body.integer("max_tokens", _DEFAULT_MAX_TOKENS, least=0 if echo else 1)
    extras = Extras(logprobs=LogprobsWanted.of_completions(body), echo=echo)
    return await answer(replica, request, body, prompts, max_tokens, _FORMAT, extras)
