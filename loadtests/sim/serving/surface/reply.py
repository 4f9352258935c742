"""What an endpoint answers with."""

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from aiohttp import web

from loadtests.sim.serving.surface.generation import echo_request_id

Reply = web.StreamResponse | Mapping[str, object]
"""A whole response, or the JSON of one with status 200."""


def json_reply(
    value: Mapping[str, object], request: web.BaseRequest, status: HTTPStatus = HTTPStatus.OK
) -> web.Response:
    """A response with a JSON body."""
    headers = {"Content-Type": "application/json"} | echo_request_id(request)
    return web.Response(body=orjson.dumps(value), status=status, headers=headers)
