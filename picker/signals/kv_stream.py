"""One engine's KV events over ZeroMQ, complete and in order: vLLM's publisher and its replay.

PUB sends [topic, number, payload]; numbers are 8 bytes, big-endian, from 0 on with every publisher.
A number that is not the next one leaves a gap: the ROUTER beside it is asked for the batches from
there on ([empty, number]), and sends each as [empty, topic, number, payload] and the number -1 at
the end. What it no longer keeps is unknown from then on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from picker.signals.kv_replays import Replays
from picker.signals.kv_wire import pieces, read_batch
from picker.signals.turns import Turns
from picker.state.cache.events import Event
from picker.state.cache.feed import Feed, FeedState

log = logging.getLogger(__name__)

_NUMBER_BYTES: Final = 8
_END: Final = (-1).to_bytes(_NUMBER_BYTES, "big", signed=True)
_REPLAY_TIMEOUT_S: Final = 2.0
"""A publisher looks at its replay requests between two batches, at least ten times a second."""
_LONGEST_REPLAY_S: Final = 30.0
"""Others wait for it."""
_MOST_KEPT: Final = 10_000
"""Batches that wait for the end of a replay."""
_MOST_KEPT_BYTES: Final = 64 << 20
"""Of these batches."""
_MOST_WAITING: Final = 5_000
"""Batches that wait to be read; further ones wait at the publisher, and are lost in the end."""
_MOST_REPLAYED: Final = 2_000
"""Replayed batches that wait to be read. Further ones are lost at their sender, and asked again."""
_MOST_BYTES: Final = 16 << 20
"""Of one batch: a million tokens in a step are less. A larger one breaks the connection."""
_REPLAYS_IN_A_ROW: Final = 20
"""So many that bring nothing new are enough."""
_HEARTBEAT_MS: Final = 200
_DEAD_AFTER_MS: Final = 750
_EVENTS_AT_ONCE: Final = 16


@dataclass(slots=True)
class KvStats:
    """Counts over all streams of this worker."""

    batches: int = 0
    malformed: int = 0
    """Messages that are no batches, and events of batches that could not be read."""
    gaps: int = 0
    """Numbers that did not follow, also at the beginning."""
    lost: int = 0
    """Gaps that no replay could fill."""
    restarts: int = 0
    """Publishers that began anew, and connections that were lost."""


@dataclass(frozen=True, slots=True)
class KvEndpoint:
    """Where an engine publishes."""

    events: str
    """ZeroMQ endpoint of its PUB socket."""
    replay: str | None
    """Of its ROUTER; None: it has none."""
    topic: str = ""
    """Prefix of the topics to take."""
    guessed: bool = False
    """Nobody has named it: seldom tried."""


class KvStream:
    """Feeds what an engine publishes, between `open` and `close`."""

    def __init__(
        self,
        endpoint: KvEndpoint,
        feed: Feed,
        context: zmq.Context[zmq.Socket[bytes]],
        turns: Turns,
        replays: Replays,
        stats: KvStats,
    ) -> None:
        self.endpoint = endpoint
        self.feed = feed
        self.connected = False
        self._context, self._turns, self._stats = context, turns, stats
        self._replays = replays
        self._subscriber: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._replay: zmq.Socket[bytes] | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._events: Iterator[Event] = iter(())
        """Those of the last batch that are still to be taken in."""
        self._kept: deque[tuple[int, bytes]] = deque()
        """Batches that came while an earlier one was missing."""
        self._kept_bytes = 0
        self._asked: int | None = None
        """Number from which on a replay is to come, or comes; None: there is none."""
        self._asked_s = 0.0
        self._seen = -1
        """Number of the last batch that was published to us."""
        self._next: int | None = 0
        """Number of the batch to take in next; None: whatever comes."""
        self._in_a_row = 0
        self._replayed_any = self._replayed_new = False
        self._hole = False

    def open(self) -> None:
        """Must run in the loop that reads. Raises OSError when the endpoint is none."""
        socket = self._context.socket(zmq.SUB)
        try:
            socket.setsockopt(zmq.IPV6, 1)
            socket.setsockopt(zmq.RCVHWM, _MOST_WAITING)
            socket.setsockopt(zmq.MAXMSGSIZE, _MOST_BYTES)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _DEAD_AFTER_MS)
            socket.setsockopt(zmq.RECONNECT_IVL, 10_000 if self.endpoint.guessed else 100)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 60_000 if self.endpoint.guessed else 2_000)
            socket.setsockopt(zmq.SUBSCRIBE, self.endpoint.topic.encode())
            self._monitor = socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
            )
            socket.connect(self.endpoint.events)
        except BaseException:
            socket.close(linger=0)
            self._monitor = None
            raise
        self._subscriber = socket
        loop = asyncio.get_running_loop()
        for one in (socket, self._monitor):
            loop.add_reader(_descriptor(one), self._turns.add, self._work)
        self._turns.add(self._work)

    def close(self) -> None:
        """Nothing more is fed."""
        self._turns.drop(self._work)
        self._end_replay()
        loop, socket, monitor = asyncio.get_running_loop(), self._subscriber, self._monitor
        self._subscriber = self._monitor = None
        if socket is not None and monitor is not None:
            for one in (socket, monitor):
                loop.remove_reader(_descriptor(one))
            socket.disable_monitor()
            socket.close(linger=0)

    # -- reading

    def _work(self, until_s: float) -> bool:
        """Take in what there is; see `Turns`."""
        while self._subscriber is not None:
            if not (self._take_in() or self._hear_monitor() or self._read()):
                return False
            if time.perf_counter() > until_s:
                return True
        return False

    def _take_in(self) -> bool:
        """Some events of a batch; false when there are none left."""
        some = list(islice(self._events, _EVENTS_AT_ONCE))
        if some:
            self.feed.apply(some, time.monotonic())
        return bool(some)

    def _read(self) -> bool:
        """The next batch; false when there is none now."""
        if self._replay is not None:
            frames = _received(self._replay)
            if frames is not None:
                self._replayed(frames)
                return True
        elif self._kept and self._asked is None:
            number, payload = self._kept.popleft()
            self._kept_bytes -= len(payload)
            self._in_order(number, payload)
            return True
        assert self._subscriber is not None
        frames = _received(self._subscriber)
        if frames is None:
            return False
        if not self.connected:
            return True  # the rest of a connection that is lost
        if len(frames) != 3 or len(frames[1]) != _NUMBER_BYTES or frames[1] == _END:
            self._stats.malformed += 1
            return True
        number = int.from_bytes(frames[1], "big")
        if number <= self._seen:
            self._begin_anew()
        self._seen = number
        if self._asked is not None:
            if len(self._kept) < _MOST_KEPT and self._kept_bytes < _MOST_KEPT_BYTES:
                self._kept.append((number, frames[2]))
                self._kept_bytes += len(frames[2])
        else:
            self._in_order(number, frames[2])
        return True

    def _hear_monitor(self) -> bool:
        monitor = self._monitor
        if monitor is None or not monitor.poll(0):
            return False
        event = recv_monitor_message(monitor, zmq.NOBLOCK)["event"]
        if event == zmq.EVENT_DISCONNECTED:
            if not self.connected:
                return True  # it was none of ZeroMQ's
            log.info("KV events of %s: the connection is lost", self.endpoint.events)
            self.connected = False
            self._stats.restarts += 1
            self._end_replay()
            self._unlearn(FeedState.SILENT)
        else:
            self.connected = True
            self._begin_anew()
            self._ask(0)
        return True

    # -- order

    def _in_order(self, number: int, payload: bytes) -> None:
        if self._next is None:
            self._next = number
        elif self.feed.state is FeedState.SILENT and number == self._next:
            self._next = 0  # what was taken in is forgotten
        if number < self._next:
            return  # a replay has brought it
        if number > self._next:
            self._stats.gaps += 1
            self._kept.appendleft((number, payload))
            self._kept_bytes += len(payload)
            self._ask(self._next)
            return
        if number == 0 or self.feed.state is FeedState.SILENT:
            self._unlearn(FeedState.WHOLE if number == 0 else FeedState.PARTIAL)
        self._in_a_row = 0
        self._apply(number, payload)

    def _apply(self, number: int, payload: bytes) -> None:
        self._next = number + 1
        self._stats.batches += 1
        try:
            events, unread = read_batch(payload)
        except ValueError as error:
            log.info("KV events of %s: batch %d: %s", self.endpoint.events, number, error)
            self._stats.malformed += 1
            return
        self._stats.malformed += unread
        self._events = pieces(events)

    def _begin_anew(self) -> None:
        """The publisher's numbers begin at 0 again."""
        if self._seen >= 0:
            self._stats.restarts += 1
        self._end_replay()
        self._unlearn(FeedState.SILENT)
        self._kept.clear()
        self._kept_bytes = 0
        self._seen, self._next, self._in_a_row = -1, 0, 0

    def _unlearn(self, state: FeedState) -> None:
        self._events = iter(())
        self.feed.forget(state)

    # -- replay

    def _ask(self, first: int) -> None:
        """For the batches from this number on, when it is our turn."""
        self._in_a_row += 1
        if self.endpoint.replay is None or self._in_a_row > _REPLAYS_IN_A_ROW:
            self._give_up()
            return
        self._asked = first
        self._replays.ask(self._begin_replay)

    def _begin_replay(self) -> None:
        assert self.endpoint.replay is not None
        assert self._asked is not None
        try:
            socket = self._context.socket(zmq.DEALER)
        except zmq.ZMQError as error:  # no more sockets or files
            log.warning("KV events of %s: no replay: %s", self.endpoint.events, error)
            self._end_replay()
            self._give_up()
            return
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _MOST_REPLAYED)
        socket.setsockopt(zmq.MAXMSGSIZE, _MOST_BYTES)
        socket.connect(self.endpoint.replay)
        request = self._asked.to_bytes(_NUMBER_BYTES, "big")
        socket.send_multipart((b"", request), zmq.NOBLOCK)
        loop = asyncio.get_running_loop()
        loop.add_reader(_descriptor(socket), self._turns.add, self._work)
        self._timeout = loop.call_later(_REPLAY_TIMEOUT_S, self._no_replay)
        self._asked_s = time.monotonic()
        self._replay, self._replayed_any, self._replayed_new = socket, False, False
        self._hole = False
        self._turns.add(self._work)

    def _replayed(self, frames: list[bytes]) -> None:
        if len(frames) != 4 or len(frames[2]) != _NUMBER_BYTES:
            self._stats.malformed += 1
            return
        if frames[2] == _END:
            self._replay_over()
            return
        if self._timeout is not None:
            self._timeout.cancel()
        if time.monotonic() > self._asked_s + _LONGEST_REPLAY_S:
            self._no_replay()
            return
        self._timeout = asyncio.get_running_loop().call_later(_REPLAY_TIMEOUT_S, self._no_replay)
        number = int.from_bytes(frames[2], "big")
        first, self._replayed_any = not self._replayed_any, True
        if self._next is None or number < self._next:
            return
        if number > self._next:
            if not first or self._hole:
                self._hole = True  # its socket was full: ask again from there
                return
            self._stats.lost += 1
            self._unlearn(FeedState.PARTIAL)
        elif self.feed.state is FeedState.SILENT:
            self._unlearn(FeedState.WHOLE if number == 0 else FeedState.PARTIAL)
        self._replayed_new = True
        self._apply(number, frames[3])

    def _replay_over(self) -> None:
        self._end_replay()
        if self._replayed_new:
            self._in_a_row = 0
        if self._hole and self._next is not None:
            self._ask(self._next)
            return
        if self.feed.state is FeedState.SILENT and self._next == 0 and not self._kept:
            self.feed.forget(FeedState.WHOLE)  # it has published nothing yet
        kept, following = self._kept, self._next
        if kept and following is not None and not self._replayed_any and kept[0][0] > following:
            self._give_up()
        self._turns.add(self._work)

    def _no_replay(self) -> None:
        """Nothing comes from the replay endpoint."""
        log.info("KV events of %s: no replay from %s", self.endpoint.events, self.endpoint.replay)
        self._end_replay()
        self._give_up()
        self._turns.add(self._work)

    def _give_up(self) -> None:
        """What is missing stays unknown: go on with what comes."""
        if self._kept or self._next:
            self._stats.lost += 1
        self._unlearn(FeedState.SILENT)
        self._next, self._in_a_row = None, 0

    def _end_replay(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        socket, self._replay = self._replay, None
        if socket is not None:
            asyncio.get_running_loop().remove_reader(_descriptor(socket))
            socket.close(linger=0)
        if self._asked is not None:
            self._asked = None
            self._replays.over(self._begin_replay)


def _received(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    descriptor = socket.getsockopt(zmq.FD)
    assert isinstance(descriptor, int)
    return descriptor
