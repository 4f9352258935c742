"""What a replica serves and how it is: models, adapters, health, metrics."""

from http import HTTPStatus

from aiohttp import web

from loadtests.sim.metrics import render
from loadtests.sim.replica import VERSION, Replica
from loadtests.sim.surface.body import ApiError, Body, not_found
from loadtests.sim.surface.reply import json_reply


async def health(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
    """200 while the process lives."""
    return web.Response()


async def version(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
    """The version followed."""
    return json_reply({"version": VERSION}, request)


async def metrics(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
    """Prometheus page."""
    return web.Response(
        body=render(replica), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def load(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
    """Requests in the server."""
    engine = replica.engine
    return json_reply({"server_load": engine.running_requests + engine.waiting_requests}, request)


async def list_models(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
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


async def load_lora_adapter(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
    """Serve an adapter from now on."""
    name, body = await _adapter_name(replica, request)
    path = body.text("lora_path")
    if not name or not path:
        raise ApiError(
            "Both 'lora_name' and 'lora_path' must be provided.", kind="InvalidUserInput"
        )
    if name in replica.adapter_paths and not body.flag("load_inplace"):
        raise ApiError(
            f"The lora adapter '{name}' has already been loaded. If you want to load the adapter "
            "in place, set 'load_inplace' to True.",
            kind="InvalidUserInput",
        )
    replica.adapter_paths[name] = path
    return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")


async def unload_lora_adapter(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
    """Stop serving an adapter; requests that run with it finish."""
    name, _ = await _adapter_name(replica, request)
    if not name:
        raise ApiError(
            "'lora_name' needs to be provided to unload a LoRA adapter.", kind="InvalidUserInput"
        )
    if name not in replica.adapter_paths:
        raise not_found(f"The lora adapter '{name}' cannot be found.")
    del replica.adapter_paths[name]
    return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


async def reset_prefix_cache(replica: Replica, request: web.BaseRequest) -> web.StreamResponse:
    """Forget cached prefixes that no running request uses."""
    replica.engine.forget_prefixes()
    return web.Response()


async def _adapter_name(replica: Replica, request: web.BaseRequest) -> tuple[str, Body]:
    if not replica.settings.engine.max_loras:
        raise ApiError("Not Found", status=HTTPStatus.NOT_FOUND, kind="Not Found")
    body = Body.parse(await request.read())
    return body.text("lora_name"), body


def _card(
    replica: Replica, name: str, root: str, parent: str | None, max_model_tokens: int | None
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
