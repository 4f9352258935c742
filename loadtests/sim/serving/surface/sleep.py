"""Sleep, wake, pause and resume, as vLLM serves them with VLLM_SERVER_DEV_MODE=1."""

from aiohttp import web
from pydantic import BaseModel, Field

from loadtests.sim.serving.control import PauseMode
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.reply import json_reply
from loadtests.sim.serving.surface.validation import read_query


class _Sleep(BaseModel):
    level: int = Field(1, ge=0, le=2)
    mode: PauseMode = "abort"


class _Pause(BaseModel):
    mode: PauseMode = "abort"
    clear_cache: bool = True


async def sleep(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Level 0 pauses, 1 also saves the weights in the host's memory, 2 throws them away."""
    wanted = read_query(_Sleep, request)
    await replica.control.sleep(wanted.level, wanted.mode)
    return json_reply({"status": "sleeping", "level": wanted.level}, request)


async def wake_up(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Get back all memory, or the parts that ?tags= names (repeat it)."""
    tags = request.query.getall("tags", []) or None
    awake = await replica.control.wake_up(tags)
    return json_reply({"status": "awake" if awake else "sleeping", "tags": tags}, request)


async def is_sleeping(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """At any level; a paused engine counts as sleeping."""
    return json_reply({"is_sleeping": replica.control.is_sleeping}, request)


async def pause(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Schedule nothing until /resume."""
    wanted = read_query(_Pause, request)
    await replica.control.pause(wanted.mode, clear_cache=wanted.clear_cache)
    return json_reply({"status": "paused"}, request)


async def resume(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Schedule again."""
    replica.control.resume()
    return json_reply({"status": "resumed"}, request)


async def is_paused(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Whether the engine waits for /resume."""
    return json_reply({"is_paused": replica.control.is_paused}, request)
