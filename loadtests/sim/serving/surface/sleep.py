"""Sleep, wake, pause and resume, as vLLM serves them with VLLM_SERVER_DEV_MODE=1."""

from aiohttp import web
from pydantic import BaseModel, Field

from loadtests.sim.serving.control import PauseMode
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.reply import Reply
from loadtests.sim.serving.surface.validation import read_query


class _Sleep(BaseModel):
    level: int = Field(1, ge=0, le=2)
    mode: PauseMode = "abort"


class _Pause(BaseModel):
    mode: PauseMode = "abort"
    clear_cache: bool = True


async def sleep(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Level 0 pauses, 1 also saves the weights in the host's memory, 2 throws them away."""
    wanted = read_query(_Sleep, request)
    await replica.control.sleep(wanted.level, wanted.mode)
    return {"status": "sleeping", "level": wanted.level}


async def wake_up(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Get back all memory, or the parts that ?tags= names (repeat it)."""
    tags = request.query.getall("tags", []) or None
    awake = await replica.control.wake_up(tags)
    return {"status": "awake" if awake else "sleeping", "tags": tags}


async def is_sleeping(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """At any level; a paused engine counts as sleeping."""
    return {"is_sleeping": replica.control.is_sleeping}


async def pause(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Schedule nothing until /resume."""
    wanted = read_query(_Pause, request)
    await replica.control.pause(wanted.mode, clear_cache=wanted.clear_cache)
    return {"status": "paused"}


async def resume(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Schedule again."""
    replica.control.resume()
    return {"status": "resumed"}


async def is_paused(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Whether the engine waits for /resume."""
    return {"is_paused": replica.control.is_paused}
