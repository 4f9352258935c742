"""How the supervisor asks the picker workers, each of which remembers its own, for decisions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import orjson
from msgspec.structs import asdict

from gateway.control.socket import SocketServer
from picker.explain.selection import DecisionsOfPicker, Found, Kept, Query
from picker.wire import control_pb2

log = logging.getLogger(__name__)

SERVICE: Final = "penstock.control.v1.Decisions"
_ANSWER_S: Final = 5.0
_AT_ONCE: Final = 50
"""Decisions of a message, which stays far below gRPC's 4 MiB with them."""


class DecisionsServer(SocketServer):
    """The worker's end."""

    def __init__(self, source: DecisionsOfPicker) -> None:
        self._source = source
        find: grpc.RpcMethodHandler[control_pb2.DecisionsQuery, control_pb2.DecisionsChunk]
        find = grpc.unary_stream_rpc_method_handler(
            self._find,
            request_deserializer=control_pb2.DecisionsQuery.FromString,
            response_serializer=control_pb2.DecisionsChunk.SerializeToString,
        )
        super().__init__(grpc.method_handlers_generic_handler(SERVICE, {"Find": find}))

    async def _find(
        self,
        request: control_pb2.DecisionsQuery,
        context: grpc.aio.ServicerContext[control_pb2.DecisionsQuery, control_pb2.DecisionsChunk],
    ) -> AsyncIterator[control_pb2.DecisionsChunk]:
        query = Query(**{name: getattr(request, name) for name in Query.__struct_fields__})
        kept = self._source.kept()
        chunk = control_pb2.DecisionsChunk(kept=control_pb2.KeptDecisions(**asdict(kept)))
        async for found in self._source.find(query):
            chunk.decisions.add(at_s=found.at_s, document=_json(found))
            if len(chunk.decisions) == _AT_ONCE:
                yield chunk
                chunk = control_pb2.DecisionsChunk()
        yield chunk


@dataclass(slots=True)
class Answer:
    """What the workers have answered."""

    decisions: list[tuple[float, bytes]] = field(default_factory=list)
    """When each was made, seconds since the epoch, and its JSON document; the newest first."""
    kept: list[Kept] = field(default_factory=list)
    """Of each worker that has answered."""
    silent: list[str] = field(default_factory=list)
    """Why others have not."""


class DecisionsClient:
    """The supervisor's end: asks all workers at once."""

    def __init__(self, sockets: Callable[[], Sequence[Path]]) -> None:
        """``sockets``: of the workers that run now."""
        self._sockets = sockets

    async def find(self, query: Query) -> Answer:
        """The newest decisions that fit, at most ``query.limit``. A worker that does not answer is
        named."""
        answer = Answer()
        await asyncio.gather(*(self._ask(one, query, answer) for one in self._sockets()))
        answer.decisions.sort(key=lambda decision: decision[0], reverse=True)
        del answer.decisions[query.limit :]
        return answer

    async def _ask(self, socket: Path, query: Query, answer: Answer) -> None:
        request = control_pb2.DecisionsQuery(**asdict(query))
        try:
            async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                find: grpc.aio.UnaryStreamMultiCallable[
                    control_pb2.DecisionsQuery, control_pb2.DecisionsChunk
                ]
                find = channel.unary_stream(
                    f"/{SERVICE}/Find",
                    request_serializer=control_pb2.DecisionsQuery.SerializeToString,
                    response_deserializer=control_pb2.DecisionsChunk.FromString,
                )
                async for chunk in find(request, timeout=_ANSWER_S):
                    if chunk.HasField("kept"):
                        answer.kept.append(_to_kept(chunk.kept))
                    answer.decisions += ((one.at_s, one.document) for one in chunk.decisions)
        except grpc.aio.AioRpcError as error:
            details = error.details() or error.code().name
            log.warning("%s cannot answer about decisions: %s", socket.stem, details)
            answer.silent.append(f"{socket.stem} does not answer: {details}")


def _json(found: Found) -> bytes:
    try:
        return orjson.dumps(found.document)
    except orjson.JSONEncodeError:  # a header was no UTF-8
        return orjson.dumps(_printable(found.document))


def _printable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: _printable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_printable(part) for part in value]
    return value


def _to_kept(message: control_pb2.KeptDecisions) -> Kept:
    oldest_s = message.oldest_s if message.HasField("oldest_s") else None
    return Kept(message.picker, message.decided_total, oldest_s, message.forgets)
