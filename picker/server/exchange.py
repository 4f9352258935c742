"""One request over the standard transport: FULL_DUPLEX_STREAMED both ways."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Final

from envoy.service.ext_proc.v3.external_processor_pb2 import HttpBody, ProcessingRequest
from msgspec.structs import replace

from picker import names
from picker.core import Picker
from picker.pipeline.sessions import session_token
from picker.request.answer import Answer, Decision
from picker.request.context import RequestContext
from picker.request.head import RequestHead
from picker.request.report import Ending, LastTry, Report
from picker.seams.observer import Rejected
from picker.server import wire
from picker.server.refusals import code_of_status
from picker.server.response import ResponseReader
from picker.server.response_names import NamesWriter

if TYPE_CHECKING:
    from picker.server.ext_proc import Context

_CLIENT_LEFT: Final = 0
_ACCEPT_ENCODING: Final = "accept-encoding"


class StandardExchange:
    """Decides at the end of the request's body, then follows the response to its end."""

    def __init__(self, picker: Picker, context: Context, first: ProcessingRequest) -> None:
        self._picker = picker
        self._context = context
        self._first = first
        self._metadata = first.metadata_context
        self._request_id = ""
        self._begun: RequestContext | None = None
        self._is_over = False
        """It was answered without a replica, by the picker or by the gateway."""
        self._decision: Decision | None = None
        self._reader: ResponseReader | None = None
        self._names: NamesWriter | None = None
        self._status = _CLIENT_LEFT
        self._evicting: asyncio.Future[None] | None = None
        self._sent = False
        """The gateway has the whole request: a replica may have seen it."""
        self._served: str | None = None
        self._ended = False
        self._first_body_s: float | None = None
        self._dispatched_s = 0.0

    async def run(self) -> None:
        """Serve the stream; whatever ends it, the in-flight entry is closed."""
        try:
            if await self._request():
                await self._response()
        finally:
            self._close()

    async def _request(self) -> bool:
        """True when the request goes on to a replica."""
        head = self._identified(wire.request_head(self._first, self._picker.now()))
        begun = await self._picker.begin(head)
        if isinstance(begun, Answer):
            await self._answer(begun)
            return False
        self._begun = begun
        given = self._metadata
        without_body = ended = self._first.request_headers.end_of_stream
        parts: list[bytes] = []
        size = 0
        trailers = False
        while not ended:
            message = await self._context.read()
            if not isinstance(message, ProcessingRequest):
                return False
            self._metadata = wire.with_later(self._metadata, message)
            if message.HasField("request_body"):
                size += len(message.request_body.body)
                if size > self._picker.max_body_bytes:
                    await self._answer(self._picker.refuse_size(begun))
                    return False
                parts.append(message.request_body.body)
                ended = message.request_body.end_of_stream
            elif message.HasField("request_trailers"):
                ended = trailers = True
            elif message.HasField("response_headers"):
                await self._refused_by_gateway(begun, message)
                return False
        body = b"".join(parts)
        parts.clear()
        if self._metadata is not given:
            begun.head = replace(head, subset=wire.subset_of(self._metadata))
        outcome = await self._offer(begun, body)
        if isinstance(outcome, Answer):
            await self._answer(outcome)
            return False
        self._decision = outcome
        self._picker.attend(outcome)
        self._dispatched_s = self._picker.now()
        await self._context.write(self._on_headers(outcome, head))
        if not without_body:
            sent = body if outcome.body is None else outcome.body
            for chunk in wire.streamed_chunks(sent, end_of_stream=not trailers):
                await self._context.write(wire.request_chunk(chunk))
        if trailers:
            await self._context.write(wire.CONTINUE_REQUEST_TRAILERS)
        self._sent = True
        if self._picker.may_be_evicted(begun):
            self._picker.evictable(begun, outcome, self._evict)
        return True

    def _evict(self, answer: Answer) -> None:
        """The gateway answers the client, and ends what the request has at its replica."""
        answer = answer.with_headers((names.REQUEST_ID, self._request_id))
        self._evicting = asyncio.ensure_future(self._context.write(wire.immediate(answer)))

    def _identified(self, head: RequestHead) -> RequestHead:
        """With an id of ours where the gateway has given the request none."""
        self._request_id = head.headers.get(names.REQUEST_ID, "")
        if self._request_id:
            return head
        self._request_id = str(uuid.uuid4())
        return replace(head, headers={**head.headers, names.REQUEST_ID: self._request_id})

    async def _offer(self, begun: RequestContext, body: bytes) -> Decision | Answer:
        """The request may wait for its pool as long as the gateway waits for us."""
        wait = self._picker.foreign_wait
        if wait.asked_s is None:
            begun.patience_s = wait.plain_s
            return await self._picker.offer(begun, body)
        more_time = wire.more_time(wait.asked_s)
        begun.patience_s = wait.asked_s
        async with asyncio.TaskGroup() as asking:  # done before anything else is written
            begun.on_wait = lambda _: asking.create_task(self._context.write(more_time))
            return await self._picker.offer(begun, body)

    async def _answer(self, answer: Answer) -> None:
        """Answer the client without a replica."""
        self._is_over = True
        answer = answer.with_headers((names.REQUEST_ID, self._request_id))
        await self._context.write(wire.immediate(answer))

    async def _refused_by_gateway(self, begun: RequestContext, first: ProcessingRequest) -> None:
        """The gateway answers the client itself before the request has arrived: a stalled upload,
        a filter of its own. The answer passes as it is; nothing was decided."""
        self._is_over = True
        status = wire.status_of(wire.response_head(first.response_headers))
        reason = code_of_status(status)
        event = Rejected(begun.labels(), status, reason, self._picker.now() - begun.head.received_s)
        self._picker.refused_by_proxy(event)
        message: object = first
        while isinstance(message, ProcessingRequest):
            if message.HasField("response_headers"):
                headers = ((names.REQUEST_ID, self._request_id),)
                await self._context.write(wire.on_response_headers(headers, ()))
            elif message.HasField("response_body"):
                part = message.response_body
                for chunk in wire.streamed_chunks(part.body, end_of_stream=part.end_of_stream):
                    await self._context.write(wire.response_chunk(chunk))
            elif message.HasField("response_trailers"):
                await self._context.write(wire.CONTINUE_RESPONSE_TRAILERS)
            message = await self._context.read()

    def _on_headers(self, decision: Decision, head: RequestHead) -> bytes:
        headers = [*decision.set_headers, (names.REQUEST_ID, self._request_id)]
        if decision.body is not None:
            headers.append(("content-length", str(len(decision.body))))
        remove = []
        if _ACCEPT_ENCODING in head.headers:
            remove.append(_ACCEPT_ENCODING)  # usage is read from the response's text
        return wire.decided(
            decision,
            self._metadata,
            headers,
            remove,
            fallbacks=self._picker.foreign_fallbacks,
        )

    async def _response(self) -> None:
        while True:
            message = await self._context.read()
            if not isinstance(message, ProcessingRequest):
                return
            if message.HasField("response_headers"):
                await self._response_headers(message)
            elif message.HasField("response_body"):
                await self._response_body(message.response_body)
            elif message.HasField("response_trailers"):
                self._ended = True
                await self._response_trailers()

    async def _response_headers(self, message: ProcessingRequest) -> None:
        assert self._decision is not None
        assert self._begun is not None
        self._picker.began(self._begun)
        given = wire.response_head(message.response_headers)
        self._status = wire.status_of(given)
        balancing = message.metadata_context.filter_metadata.get(names.LB_NAMESPACE)
        if balancing is not None and names.SERVED in balancing.fields:
            self._served = balancing.fields[names.SERVED].string_value or None
        self._reader = ResponseReader(
            given, rename=self._decision.rename, strip_usage=self._decision.strip_usage
        )
        kind = given.get("content-type", "").lower()
        streaming = kind.startswith("text/event-stream")
        if self._decision.response_ids and (streaming or "json" in kind):
            self._names = NamesWriter(
                self._decision.response_ids, self._address(self._decision), streaming=streaming
            )
        remove = [names.SERVER] if names.SERVER in given else []
        if self._reader.changes_length or self._names is not None:
            remove.append("content-length")
        headers = (
            *self._decision.response_headers,
            (names.REQUEST_ID, self._request_id),
            (names.ANTHROPIC_REQUEST_ID, self._request_id),
        )
        if self._decision.wants_session_token:
            headers = (
                *headers,
                (names.SESSION_TOKEN, session_token(self._address(self._decision))),
            )
        if self._decision.shown is not None:
            headers = (*headers, *self._decision.shown.headers(self._address(self._decision)))
        self._ended = message.response_headers.end_of_stream
        await self._context.write(wire.on_response_headers(headers, remove))

    async def _response_body(self, body: HttpBody) -> None:
        if self._first_body_s is None and body.body:
            self._first_body_s = self._picker.now()
        data = body.body
        if self._reader is not None:
            data = self._reader.feed(body.body, end=body.end_of_stream)
        if self._names is not None:
            data = self._names.feed(data, end=body.end_of_stream)
        self._ended = self._ended or body.end_of_stream
        for chunk in wire.streamed_chunks(data, end_of_stream=body.end_of_stream):
            await self._context.write(wire.response_chunk(chunk))

    async def _response_trailers(self) -> None:
        rest = self._reader.finish() if self._reader is not None else b""
        if self._names is not None:
            rest = self._names.feed(rest, end=True)
        if rest:
            for chunk in wire.streamed_chunks(rest, end_of_stream=False):
                await self._context.write(wire.response_chunk(chunk))
        await self._context.write(wire.CONTINUE_RESPONSE_TRAILERS)

    def _address(self, decision: Decision) -> str:
        """The endpoint that served, where the gateway reports it; else the first choice."""
        return self._served or decision.addresses[0]

    def _close(self) -> None:
        decision = self._decision
        if self._begun is not None:
            self._picker.began(self._begun)
        if decision is None:
            if self._begun is not None and not self._is_over:
                self._picker.left(self._begun)
            return
        reader = self._reader
        if reader is not None:
            reader.finish()
        ttft_s = None
        if self._first_body_s is not None:
            ttft_s = self._first_body_s - self._dispatched_s
        if self._status == _CLIENT_LEFT or not self._ended:
            reason = Ending.CLIENT_ABORTED
        else:
            reason = Ending.OK if self._status < 400 else Ending.HTTP_ERROR
        if reader is None:
            reader = ResponseReader({}, rename=None, strip_usage=False)
        reason = reader.ending(reason, self._status)
        self._picker.complete(
            Report(
                id=decision.id,
                owner=self._picker.id,
                address=self._address(decision) if self._sent or self._reader is not None else "",
                status=self._status,
                reason=reason,
                input_tokens=reader.usage.input_tokens,
                output_tokens=reader.output_tokens(reason),
                cached_tokens=reader.usage.cached_tokens,
                streamed_events=reader.events,
                reasoning_tokens=reader.usage.reasoning_tokens,
                ttft_s=ttft_s,
                duration_s=self._picker.now() - self._dispatched_s,
                last_try=LastTry.BLAMED if reader.blames_request else LastTry.ANSWERED,
            )
        )
