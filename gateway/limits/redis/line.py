"""A connection to Redis for script calls: many at once, answered in order, each within its timeout.

redis-py makes the connection (TLS, authentication, database). Then hiredis' packer and reader work
on its transport directly, which costs a third of redis-py's own way to make a call. The transport
is private to redis-py: only `_opened` takes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

import hiredis
from redis.asyncio import Redis

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.redis.client import in_time
from gateway.limits.redis.scripts import Script

_NOTHING: Final = object()
_NEVER_S: Final = float("inf")

_NOT_THE_ONE: Final = frozenset(
    {
        *("READONLY", "MASTERDOWN", "LOADING", "NOAUTH", "WRONGPASS", "MOVED", "ASK"),
        *("CLUSTERDOWN", "BUSY", "UNKILLABLE"),
    }
)
"""Refusals after which a new connection may lead to a Redis that serves: after a failover, the old
one answers that it is a replica."""

Reply = object
Word = str | int | bytes


class ScriptLine(Protocol):
    """Sends script calls to Redis."""

    def begin(self, call: Call) -> asyncio.Future[Reply]:
        """Send a call, in order with the earlier ones. Returns its answer, or StoreUnavailable
        within its timeout."""
        ...

    async def close(self) -> None:
        """Wait for the calls that were begun, then let go of the connection."""
        ...


class _Made(Protocol):
    """The part of redis-py's connections that is used here; they have no types."""

    _writer: asyncio.StreamWriter
    socket_timeout: float
    socket_connect_timeout: float

    async def connect(self) -> None:
        """Connect, authenticate and choose the database."""
        ...


class Call:
    """A command that was begun."""

    __slots__ = ("answer", "deadline_s", "script", "timeout_s", "words")

    def __init__(
        self, words: tuple[Word, ...], timeout_s: float, script: Script | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Reply] = loop.create_future()
        self.deadline_s = loop.time() + timeout_s
        self.words, self.script, self.timeout_s = words, script, timeout_s

    @classmethod
    def of(cls, script: Script, keys: Sequence[str], arguments: bytes, timeout_s: float) -> Call:
        """A call of a script that Redis probably knows."""
        return cls(("EVALSHA", script.sha, len(keys), *keys, arguments), timeout_s, script)

    def late(self) -> None:
        """Its timeout is over."""
        self.fail(f"no answer within {self.timeout_s * 1_000:g} ms")

    def fail(self, message: str, *, lost: bool = False) -> None:
        """Fail, unless it was answered or its caller was cancelled."""
        if not self.answer.done():
            self.answer.set_exception(StoreUnavailable(message, lost=lost))

    def in_full(self) -> tuple[Word, ...]:
        """The same command with the script's source, for a Redis that does not know it. Call it
        once."""
        script, self.script = cast("Script", self.script), None
        return ("EVAL", script.source, *self.words[2:])


class _Connection(asyncio.Protocol):
    """Writes once in a turn of the loop, and reads answers in order. It becomes unusable as soon as
    an answer is late: it still waits for the answers to earlier calls, and takes no new ones."""

    def __init__(
        self,
        opened: object,
        transport: asyncio.WriteTransport,
        lost: Callable[[], None],
    ) -> None:
        self.usable = True
        self._lost = lost
        self._opened = opened  # redis-py closes the transport when this is collected
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._asked: deque[Call] = deque()
        self._out: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = _NEVER_S
        """When the timer is due: uvloop's handle of a time that has passed does not know it."""
        transport.set_protocol(self)

    async def answered(self) -> None:
        """Return when every call is answered or late."""
        waiting = [call.answer for call in self._asked if not call.answer.done()]
        if waiting:
            await asyncio.wait(waiting)

    def ask(self, call: Call) -> None:
        """Write it together with the other calls of this turn of the loop."""
        self._write(call, call.words)
        if call.deadline_s < self._timer_s:
            self._wake_at(call.deadline_s)

    def _wake_at(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_s = due_s
        if due_s < _NEVER_S:
            self._timer = self._loop.call_at(due_s, self._late)

    def _write(self, call: Call, words: tuple[Word, ...]) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub errs
        self._asked.append(call)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        while True:
            try:
                reply = reader.gets()
            except hiredis.ProtocolError as error:
                self.give_up(f"does not speak Redis's protocol: {error}")
                return
            if reply is _NOTHING:
                break
            if not self._asked:
                self.give_up(f"answered what nobody asked: {reply!r:.100}")
                return
            call = self._asked.popleft()
            if isinstance(reply, hiredis.ReplyError):
                self._refused(call, str(reply))
                if not self.usable and not self._asked:
                    break
            elif not call.answer.done():  # its caller was cancelled, or it was late
                call.answer.set_result(reply)
        if not self.usable and not self._asked:
            self._transport.abort()

    def _refused(self, call: Call, message: str) -> None:
        if call.script is not None and message.startswith("NOSCRIPT"):
            if not call.answer.done():
                self._write(call, call.in_full())
        elif message.partition(" ")[0] in _NOT_THE_ONE:
            call.fail(f"refused: {message}", lost=True)
            if self.usable:
                self._lost()
            self.give_up(f"refused: {message}")
        else:
            call.fail(f"refused: {message}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.usable:  # not given up by ourselves
            self._lost()
        self.give_up(f"connection lost: {exc or 'closed by Redis'}")

    def give_up(self, why: str) -> None:
        """Fail all calls that wait, and disconnect."""
        self.usable = False
        self._wake_at(_NEVER_S)
        asked, self._asked = self._asked, deque()
        for call in asked:
            call.fail(why, lost=True)
        self._transport.abort()

    def _late(self) -> None:
        now_s = self._loop.time()
        next_s = _NEVER_S
        for call in self._asked:
            if call.answer.done():
                continue
            if call.deadline_s <= now_s:
                self.usable = False
                call.late()
            else:
                next_s = min(next_s, call.deadline_s)
        self._wake_at(next_s)
        if next_s == _NEVER_S and not self.usable:
            self.give_up("given up")


class SingleLine:
    """`ScriptLine` to a single Redis: one connection at a time, made when it is needed. Nothing is
    retried."""

    def __init__(
        self,
        client: Redis,
        connect_timeout_s: float,
        *,
        connected: Callable[[], None] = lambda: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Connecting takes many round trips. So it has its own timeout, and goes on when the calls
        that wait for it are late. ``connected`` is called for every new connection, before anything
        is sent on it; ``lost`` when Redis ends a connection, or when it leads to a Redis that
        cannot serve."""
        self._client = client
        self._connect_timeout_s = connect_timeout_s
        self._connected = connected
        self._lost = lost
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[Call] = []

    def begin(self, call: Call) -> asyncio.Future[Reply]:
        """See `ScriptLine.begin`."""
        connection = self._connection
        if connection is not None and connection.usable:
            connection.ask(call)
        else:
            asyncio.get_running_loop().call_at(call.deadline_s, call.late)
            self._waiting.append(call)
            if self._opening is None:
                self._opening = asyncio.create_task(self._open(), name="limit store connection")
        return call.answer

    async def close(self) -> None:
        """See `ScriptLine.close`."""
        if self._opening is not None:
            await asyncio.wait({self._opening})
        if self._connection is not None:
            await self._connection.answered()
            self._connection.give_up("closed")

    async def _open(self) -> None:
        try:
            self._connection = await in_time(self._opened(), self._connect_timeout_s)
            self._connected()
        except StoreUnavailable as error:
            for call in self._waiting:
                call.fail(str(error), lost=error.lost)
        else:
            now_s = asyncio.get_running_loop().time()
            for call in self._waiting:
                if not call.answer.done():
                    call.deadline_s = now_s + call.timeout_s  # the new connection is not to blame
                    self._connection.ask(call)
        finally:
            self._waiting = []
            self._opening = None

    async def _opened(self) -> _Connection:
        make = cast("Callable[[], _Made]", self._client.connection_pool.make_connection)
        made = make()
        made.socket_timeout = made.socket_connect_timeout = self._connect_timeout_s
        await made.connect()
        transport = made._writer.transport  # noqa: SLF001
        return _Connection(made, transport, self._lost)
