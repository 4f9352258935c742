"""/sim/faults: what the replica does wrong on purpose. vLLM has no such endpoint."""

import orjson
from aiohttp import web

from loadtests.sim.serving.faults import Fault, Metrics, parse
from loadtests.sim.serving.metrics import render
from loadtests.sim.serving.replica import SimulatedReplica
from loadtests.sim.serving.surface.body import ApiError, not_found
from loadtests.sim.serving.surface.reply import json_reply


async def list_faults(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Faults that were given and not taken back."""
    return json_reply({"faults": replica.faults.describe()}, request)


async def give_faults(replica: SimulatedReplica, request: web.BaseRequest) -> web.StreamResponse:
    """Give one fault, or a list of them; if one is wrong, none is given. Replies with their ids."""
    data = await request.read()
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"JSON decode error: {error}") from error
    several = document if isinstance(document, list) else [document]
    faults = [_read(replica, each) for each in several]
    given = [replica.faults.add(fault).describe() for fault in faults]
    return json_reply({"faults": given}, request)


async def take_back_faults(
    replica: SimulatedReplica, request: web.BaseRequest
) -> web.StreamResponse:
    """Take back the faults named by ?id=, or all. Replies with those that are left."""
    ids = request.query.getall("id", [])
    known = {each["id"] for each in replica.faults.describe()}
    for fault_id in ids:
        if fault_id not in known:
            raise not_found(f"No fault has the id {fault_id!r}: see GET /sim/faults.", "id")
    for fault_id in dict.fromkeys(ids):
        replica.faults.remove(fault_id)
    if not ids:
        replica.faults.clear()
    return await list_faults(replica, request)


def _read(replica: SimulatedReplica, document: object) -> Fault:
    try:
        fault = parse(orjson.dumps(document))
    except (ValueError, orjson.JSONEncodeError) as error:
        raise ApiError(str(error)) from error
    if isinstance(fault, Metrics):
        page = render(replica).decode()
        for family in fault.families:
            if f"# TYPE {family} " not in page:
                raise ApiError(f"metrics.families: {family!r} is no family of /metrics")
    return fault
