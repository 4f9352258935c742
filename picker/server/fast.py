"""The ext_proc service for our own Envoy: the request comes BUFFERED, the response is not seen, and
the stream ends with the decision.

A decision counts as sent when the last byte of it was handed to the connection, and is given back
when its stream ends before: Envoy never had it then. What Envoy drops later it reports in its
access log, by the id that the answer to the request's headers has told it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from envoy.config.core.v3.base_pb2 import Metadata
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from google.protobuf.message import DecodeError
from msgspec.structs import replace

from picker import names
from picker.core import Picker
from picker.request.answer import Answer, Decision
from picker.request.context import RequestContext
from picker.server import wire
from picker.server.eager import Eager, Work
from picker.server.http2.call import Call, Message
from picker.server.http2.frames import Status
from picker.server.unix_server import Flush

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = (1 << 30) + (1 << 20)
"""Above the longest body that can be allowed: one that is too long gets its answer."""
_DUPLEX: Final[int] = ProcessingMode.FULL_DUPLEX_STREAMED
_NO_METADATA: Final = Metadata()
_NOT_BUFFERED: Final = "this socket takes requests with request_body_mode BUFFERED"


class FastPath:
    """Makes an exchange for each call."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self._eager = Eager()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: dict[FastExchange, None] = {}

    def exchange(self, call: Call, flush: Flush) -> FastExchange:
        """Serves one call."""
        return FastExchange(self._picker, call, flush, self._start, self._watching)

    def release(self) -> None:
        """Let requests that could be evicted go on without the picker, which stops."""
        for exchange in tuple(self._watching):
            exchange.release()

    async def close(self) -> None:
        """Return when nothing is being decided any more. All calls have ended before."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._eager.close()

    def _start(self, work: Work) -> asyncio.Task[None] | None:
        task = self._eager.start(work)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return task


class FastExchange:
    """One request: its headers come in a first message, its body in a second one."""

    def __init__(
        self,
        picker: Picker,
        call: Call,
        flush: Flush,
        start: Callable[[Work], asyncio.Task[None] | None],
        watching: dict[FastExchange, None],
    ) -> None:
        """``watching``: the exchanges of requests that can be evicted; joins them."""
        self._picker, self._call = picker, call
        self._flush, self._start = flush, start
        self._watching = watching
        self._may_watch = False
        """It may be evicted, and Envoy tells when its answer begins."""
        self._task: asyncio.Task[None] | None = None
        """Work on the last message that waits for something."""
        self._early: Message | None = None
        """The next one that has come meanwhile."""
        self._begun: RequestContext | None = None
        self._metadata = _NO_METADATA
        self._decision: Decision | None = None
        self._is_answered = False
        """By the picker itself."""
        self._is_over = False
        """Nothing that still comes matters."""

    # -- what comes

    def message(self, message: Message) -> None:
        """See `Receiver`. One that is too many is not read."""
        if self._is_over:
            return
        if self in self._watching:  # its answer begins
            self._call.send(wire.PASS_RESPONSE_HEADERS)
            self._end()
            return
        if self._task is not None:
            self._early = message if self._early is None else self._early
        elif self._begun is None:
            self._run(self._take_head(message))
        else:
            self._run(self._take_body(self._begun, message))

    def half_closed(self) -> None:
        """See `Receiver`."""
        if self._task is None:
            self._end()

    def cancelled(self) -> None:
        """See `Receiver`."""
        self._is_over = True
        self._unwatch()
        waits = self._task is not None and self._task.cancel()
        if not waits and not self._call.is_sent:  # the step that waits gives back what was taken
            self._give_back()
        self._decided()

    # -- work on a message

    def _run(self, work: Work) -> None:
        try:
            self._task = self._start(work)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as of a task
            self._failed(error)
        if self._task is not None:
            self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() and self._is_over:
            return
        # What a step waited for may have been cancelled, and not the step.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)
        early, self._early = self._early, None
        if early is not None:
            self.message(early)
        if self._call.half_closed and self._task is None:
            self._end()
        self._flush()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, DecodeError):
            self._end(Status.INTERNAL, "the message is no ProcessingRequest")
            return
        log.error("an exchange with Envoy failed", exc_info=error)
        self._give_back()
        self._end(Status.INTERNAL, "the endpoint picker failed")

    def _decided(self) -> None:
        """Or never will be."""
        if self._begun is None:
            return
        if self._decision is None and not self._is_answered:
            self._picker.left(self._begun)
        else:
            self._picker.over(self._begun)

    def _give_back(self) -> None:
        if self._decision is not None:
            self._picker.abandon(self._decision)

    async def _take_head(self, message: Message) -> None:
        first = ProcessingRequest.FromString(message)
        if not first.HasField("request_headers"):
            self._end()
            return
        if first.protocol_config.request_body_mode == _DUPLEX:
            self._end(Status.FAILED_PRECONDITION, _NOT_BUFFERED)
            return
        head = wire.request_head(first, self._picker.now())
        begun = await self._picker.begin(head)
        if isinstance(begun, Answer):
            self._answer(begun)
            return
        self._metadata = first.metadata_context
        if first.request_headers.end_of_stream:
            await self._decide(begun, b"", on_body=False)
            return
        self._begun = begun
        self._picker.expect(begun)
        self._may_watch = self._picker.may_be_evicted(begun)
        self._call.send(wire.continue_to_body(begun.id, self._picker.id, watch=self._may_watch))

    async def _take_body(self, begun: RequestContext, message: Message) -> None:
        second, body = wire.request_body(message)
        del message  # or a request that waits would hold its body twice
        if not second.HasField("request_body"):
            self._end()
            return
        given = self._metadata
        self._metadata = wire.with_later(given, second)
        if self._metadata is not given:
            begun.head = replace(begun.head, subset=wire.subset_of(self._metadata))
        await self._decide(begun, body, on_body=True)

    async def _decide(self, begun: RequestContext, body: bytes, *, on_body: bool) -> None:
        begun.on_wait = self._on_wait
        outcome = await self._picker.offer(begun, body)
        if isinstance(outcome, Answer):
            self._answer(outcome)
            return
        self._decision = outcome
        headers = _headers(outcome)
        self._call.send(*wire.decided_fast(outcome, self._metadata, headers, on_body=on_body))
        if self._may_watch:
            self._picker.over(begun)
            self._watching[self] = None
            self._picker.evictable(begun, outcome, self._evict)
        else:
            self._end()

    def release(self) -> None:
        """The request goes on, and cannot be evicted any more."""
        self._end()
        self._flush()

    def _evict(self, answer: Answer) -> None:
        """Envoy answers the client, and ends what the request has at its replica."""
        self._answer(answer)
        asyncio.get_running_loop().call_soon(self._flush)

    def _unwatch(self) -> None:
        if self in self._watching:
            del self._watching[self]
            assert self._begun is not None
            self._picker.began(self._begun)

    def _on_wait(self, longest_s: float) -> None:
        """The request waits for its pool, and Envoy for longer than for a picker that hangs."""
        self._call.send(wire.more_time(longest_s + self._picker.decision_timeout_s))
        asyncio.get_running_loop().call_soon(self._flush)

    def _answer(self, answer: Answer) -> None:
        self._is_answered = True
        if answer.handover is not None:
            self._call.send(wire.handed_over(answer.handover, self._picker.id))
        else:
            self._call.send(wire.immediate(answer))
        self._end()

    def _end(self, status: Status = Status.OK, reason: str = "") -> None:
        if not self._is_over:
            self._is_over = True
            self._unwatch()
            self._call.finish(status, reason)
            self._decided()


def _headers(decision: Decision) -> tuple[tuple[str, str], ...]:
    headers = (
        *decision.set_headers,
        (names.POOL_HEADER, names.cluster_name(decision.pool)),
        (names.MAX_RETRIES, str(len(decision.addresses) - 1)),
    )
    if decision.retried_statuses and len(decision.addresses) > 1:
        headers = (*headers, (names.RETRIED_STATUSES, decision.retried_statuses))
    if decision.body is None:
        return headers
    return (*headers, ("content-length", str(len(decision.body))))
