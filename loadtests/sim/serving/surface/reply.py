"""JSON responses."""

from http import HTTPStatus

import orjson
from aiohttp import web

from loadtests.sim.serving.surface.generation import echo_request_id


def json_reply(value: object, request: web.BaseRequest) -> web.Response:
    """A 200 with a JSON body."""
    return json_bytes(orjson.dumps(value), request)


def json_bytes(
    body: bytes, request: web.BaseRequest, status: HTTPStatus = HTTPStatus.OK
) -> web.Response:
    """A response whose body is JSON already."""
    return web.Response(
        body=body,
        status=status,
        headers={"Content-Type": "application/json"} | echo_request_id(request),
    )
