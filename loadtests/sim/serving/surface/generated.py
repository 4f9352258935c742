"""/sim/generated: what was generated for whom. vLLM has no such endpoint."""

from aiohttp import web

from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.reply import Reply


async def list_generated(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Tokens of the latest requests that ended, or whose client left."""
    return {"requests": replica.generated.describe()}


async def forget_generated(replica: SimulatedReplica, request: web.BaseRequest) -> Reply:
    """Begin anew."""
    replica.generated.clear()
    return {"requests": []}
