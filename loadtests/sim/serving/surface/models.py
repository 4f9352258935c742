"""What a replica serves, and its state: models, adapters, health, metrics."""

from http import HTTPStatus

from aiohttp import web
from pydantic import BaseModel

from loadtests.sim.serving.metrics import render
from loadtests.sim.serving.replica import VERSION, SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, not_found
from loadtests.sim.serving.surface.reply import json_reply
from loadtests.sim.serving.surface.validation import read_json, read_query


async def health(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """200 while the engine lives, 503 when the engine is dead."""
    alive = not replica.engine.dead.is_set()
    return web.Response(status=HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE)


async def version(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """The vLLM version that is followed."""
    return json_reply({"version": VERSION}, request)


async def metrics(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """The Prometheus page, or what a fault makes of it."""
    page = await replica.faults.metrics(render(replica))
    return web.Response(
        body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def load(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """The number of requests in the server."""
    engine = replica.engine
    return json_reply({"server_load": engine.running_requests + engine.waiting_requests}, request)


async def list_models(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Names of the base model, then the adapters with their parent."""
    cards = [
        _card(replica, name, replica.base_model, None, replica.max_model_tokens)
        for name in replica.settings.models
    ]
    cards += [
        _card(replica, name, path, replica.base_model, None)
        for name, path in replica.adapter_paths.items()
    ]
    return json_reply({"object": "list", "data": cards}, request)


class _Load(BaseModel):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class _Unload(BaseModel):
    lora_name: str


class _Reset(BaseModel):
    reset_running_requests: bool = False


async def load_lora_adapter(
    replica: SimulatedReplica, request: web.BaseRequest
) -> web.StreamResponse:
    """Serve an adapter from now on; the engine is stopped while its weights are loaded."""
    _need_loras(replica)
    wanted = await read_json(_Load, request)
    name = wanted.lora_name
    if not name or not wanted.lora_path:
        raise _invalid("Both 'lora_name' and 'lora_path' must be provided.")
    if name in replica.settings.models:
        raise _invalid(f"The lora adapter '{name}' conflicts with a served base model.")
    await replica.control.carry_out(_load(replica, wanted))
    return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")


async def unload_lora_adapter(
    replica: SimulatedReplica, request: web.BaseRequest
) -> web.StreamResponse:
    """Stop serving an adapter; its running and waiting requests finish."""
    _need_loras(replica)
    name = (await read_json(_Unload, request)).lora_name
    if not name:
        raise _invalid("'lora_name' needs to be provided to unload a LoRA adapter.")
    async with replica.control.adapter_lock(name):
        if name not in replica.adapter_paths:
            raise not_found(f"The lora adapter '{name}' cannot be found.")
        del replica.adapter_paths[name]
    return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


async def reset_prefix_cache(
    replica: SimulatedReplica, request: web.BaseRequest
) -> web.StreamResponse:
    """Empty the prefix cache. It fails while requests run, unless they are to start over."""
    running = read_query(_Reset, request).reset_running_requests
    success = replica.engine.forget_prefixes(running=running)
    return json_reply({"success": success}, request)


async def _load(replica: SimulatedReplica, wanted: _Load) -> None:
    name = wanted.lora_name
    async with replica.control.adapter_lock(name):
        if name in replica.adapter_paths and not wanted.load_inplace:
            raise _invalid(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        await replica.control.load_adapter(name)
        replica.adapter_paths[name] = wanted.lora_path


def _need_loras(replica: SimulatedReplica) -> None:
    if not replica.max_loras:
        status = HTTPStatus.NOT_FOUND
        raise ApiError(status.phrase, status=status, kind=status.phrase)


def _invalid(message: str) -> ApiError:
    return ApiError(message, kind="InvalidUserInput")


def _card(
    replica: SimulatedReplica,
    name: str,
    root: str,
    parent: str | None,
    max_model_tokens: int | None,
) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": replica.started_at,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_tokens,
        "permission": [],
    }
