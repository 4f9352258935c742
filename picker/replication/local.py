"""Pickers of one host: batches of reports as datagrams over unix sockets."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from picker.replication import digest, ends, findings, prefixes, queues
from picker.replication.readings import SharedReadings
from picker.request.report import Report
from picker.seams.peers import PeerSink, QueueSink, Sent
from picker.wire import state_pb2

log = logging.getLogger(__name__)

_FIRST_FLUSH_S: Final = 0.002
"""From a request to the batch that reports it, when there was none for a while."""
_FLUSH_S: Final = 0.01
"""Between two batches with requests."""
_FLUSH_S_A_PEER: Final = 0.0025
"""The more pickers there are, the rarer are their batches."""
_LONGEST_FLUSH_S: Final = 0.02
_BEAT_S: Final = 1.0
"""A picker reports all its loads so often, which also shows that it lives."""
_GONE_S: Final = 3.0
"""A picker of which nothing was heard for so long is not counted on."""
_BATCH_BYTES: Final = 64 * 1024
"""Reports are sent at once when there are so many."""
_MAX_TAKEN_BACK: Final = 64
"""Failed requests are reported at once when there are so many."""
_MAX_BACKLOG: Final = 1024
"""Datagrams that wait for a peer that does not read; older ones are dropped."""
_MAX_ENDS: Final = 16_384
"""Ends that wait for such a peer, and signs of life; of these others will follow."""
_BUFFER_BYTES: Final = 4 << 20
_DATAGRAM_BYTES: Final = 96 * 1024
"""Parts of a batch are sent together up to this size."""
_ENDS_A_DATAGRAM: Final = 256
_MAX_DATAGRAM_BYTES: Final = 256 * 1024


class _End(NamedTuple):
    """An end that waits to be sent."""

    message: state_pb2.Ended
    for_it_alone: bool


@dataclass(slots=True)
class _Peer:
    """Another picker, by its socket."""

    path: Path
    picker: str = ""
    """Its id in its last batch."""
    heard_s: float = -math.inf
    """When that came."""
    backlog: deque[bytes] = field(default_factory=lambda: deque(maxlen=_MAX_BACKLOG))
    """Datagrams to be sent to all."""
    ends: deque[_End] = field(default_factory=lambda: deque(maxlen=_MAX_ENDS))
    """To be sent to it."""
    alive: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_ENDS))
    """Its requests that go on, to be sent to it."""


class LocalPeers:
    """Reports to every other picker of this host; a lost batch makes their picture less exact for
    a second.

    A picker is known by the name of its socket, and is live while its batches come.
    """

    def __init__(
        self,
        picker_id: str,
        *,
        own: Path,
        others: Iterable[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.readings = SharedReadings(
            own.name, lambda: self._flush_within(_LONGEST_FLUSH_S), self._flush
        )
        """What workers share of their reads of replicas."""
        self.dropped_batches = 0
        """Datagrams and ends that a peer which is there did not get."""
        self.unreadable = 0
        """Datagrams and parts of batches that could not be used."""
        self._id = picker_id
        self._own = own
        self._clock = clock
        self._sink: PeerSink | None = None
        self._queues: QueueSink | None = None
        self._live: dict[str, str] = {}
        """Ids of the other pickers that live, by name, and that queues were informed of."""
        self._peers: dict[str, _Peer] = {}
        """By name."""
        self._sent: list[Sent] = []
        self._taken_back: list[Sent] = []
        self._sent_bytes = 0
        self._flush_s = _FLUSH_S
        self._flushed_s = -math.inf
        self._reports_requests = False
        """The next batch reports requests, and waits no longer than it must."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        """When the timer ends."""
        self._beat: asyncio.TimerHandle | None = None
        self._buffer = memoryview(bytearray(_MAX_DATAGRAM_BYTES))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.follow(others)

    def start(self, sink: PeerSink, queues: QueueSink | None = None) -> None:
        """Listen for ``sink``, and for ``queues`` of what waits. Raises OSError, for instance when
        the socket's path is too long."""
        self._sink, self._queues = sink, queues
        self._own.unlink(missing_ok=True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._socket.bind(str(self._own))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        self._show_life()

    def follow(self, others: Iterable[Path]) -> None:
        """Report to these from now on: pickers have come or gone."""
        self._peers = {path.name: self._peers.get(path.name) or _Peer(path) for path in others}
        self._flush_s = min(_LONGEST_FLUSH_S, max(_FLUSH_S, _FLUSH_S_A_PEER * len(self._peers)))
        self._count_live()
        if self._sink is not None:
            self._show_life()

    def stop(self) -> None:
        """Send what waits, once, and close."""
        self._flush(leaving=True)
        self._peers.clear()
        for timer in (self._timer, self._beat):
            if timer is not None:
                timer.cancel()
        self._timer = self._beat = None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._own.unlink(missing_ok=True)

    # -- reports to others

    def sent(self, sent: Sent) -> None:
        """See `Peers`."""
        blocks = sum(map(len, sent.chains))
        if not self._peers or not (blocks or sent.session or sent.adapter):
            return
        self._sent.append(sent)
        self._sent_bytes += 8 * min(blocks, prefixes.MAX_HASHES) + 100
        if self._sent_bytes >= _BATCH_BYTES:
            self._flush()
        else:
            self.loads_changed()

    def taken_back(self, sent: Sent) -> None:
        """See `Peers`."""
        if self._peers:
            self._taken_back.append(sent)
            if len(self._taken_back) >= _MAX_TAKEN_BACK:
                self._flush()
            else:
                self.loads_changed()

    def loads_changed(self) -> None:
        """See `Peers`."""
        if self._peers and not self._reports_requests:
            self._reports_requests = True
            since_s = self._clock() - self._flushed_s
            self._flush_within(max(_FIRST_FLUSH_S, self._flush_s - since_s))

    def ended(self, report: Report) -> None:
        """See `Peers`. Only its owner needs it; of an owner that has died each other picker counts
        what it left."""
        message = ends.pack(report)
        for peer in self._peers.values():
            if peer.picker == report.owner and self._is_live(peer):
                self._add_end(peer, _End(message, for_it_alone=True))
                return
        for peer in self._peers.values():
            self._add_end(peer, _End(message, for_it_alone=False))

    def lives(self, id: str, owner: str) -> None:  # noqa: A002 - the request's id
        """See `Peers`. To its owner alone; one that is not there needs no sign."""
        for peer in self._peers.values():
            if peer.picker == owner and self._is_live(peer):
                peer.alive.append(id)
                self.loads_changed()
                return

    def _add_end(self, peer: _Peer, end: _End) -> None:
        self.dropped_batches += len(peer.ends) == _MAX_ENDS
        peer.ends.append(end)
        self.loads_changed()

    def _flush_within(self, wait_s: float) -> None:
        due_s = self._clock() + wait_s
        if self._timer is not None:
            if self._timer_s <= due_s:
                return
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._flush)

    def _show_life(self) -> None:
        """Send a batch with all loads, even an empty one, now and every `_BEAT_S`: heals what was
        lost, and informs peers that came late."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._peers:
            self._count_live()
            self._flush(everything=True, beat=True)
            self._beat = asyncio.get_running_loop().call_later(_BEAT_S, self._show_life)

    def _flush(
        self, *, everything: bool = False, beat: bool = False, leaving: bool = False
    ) -> None:
        """``beat``: everything but for queues, of which a part is sent at a time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flushed_s, self._reports_requests = self._clock(), False
        datagrams = list(self._datagrams(self._parts(everything, beat=beat, leaving=leaving)))
        for peer in self._peers.values():
            for data in datagrams:
                self.dropped_batches += len(peer.backlog) == _MAX_BACKLOG
                peer.backlog.append(data)
        blocked = [self._send_to(peer) for peer in self._peers.values()]
        if any(blocked):
            self._flush_within(self._flush_s)

    def _parts(self, everything: bool, *, beat: bool, leaving: bool) -> Iterator[state_pb2.Batch]:
        """What all are to know, in parts that fit into a datagram each."""
        if self._sink is not None:
            for loads in self._sink.loads(everything=everything):
                for message in digest.pack(loads):
                    yield state_pb2.Batch(loads=[message])
        if self._queues is not None:
            whole = everything and not beat
            for pool, queue in self._queues.queues(everything=whole, part=beat):
                yield state_pb2.Batch(queues=[queues.pack(pool, queue)])
        sent, self._sent, self._sent_bytes = self._sent, [], 0
        yield from (state_pb2.Batch(sent=[message]) for message in prefixes.pack(sent))
        taken_back, self._taken_back = self._taken_back, []
        for taken in taken_back:  # one each: with its whole prompt one may be long
            yield from (state_pb2.Batch(taken_back=[m]) for m in prefixes.pack([taken]))
        if self._sink is not None:
            for finding in self._sink.findings(everything=everything):
                yield state_pb2.Batch(breakers=[findings.pack(finding)])
        yield from self.readings.parts()
        if everything or leaving:
            yield state_pb2.Batch(leaving=leaving)

    def _datagrams(self, parts: Iterable[state_pb2.Batch]) -> Iterator[bytes]:
        """Parts in a row are one batch: messages of protobuf may be joined as bytes."""
        head = state_pb2.Batch(picker=self._id).SerializeToString()
        data = b""
        for part in parts:
            more = part.SerializeToString()
            if data and len(data) + len(more) > _DATAGRAM_BYTES:
                yield data
                data = b""
            data = (data or head) + more
        if data:
            yield data

    def _send_to(self, peer: _Peer) -> bool:
        """True when the peer is there but does not read fast enough."""
        try:
            while peer.backlog:
                self._send(peer, peer.backlog[0])
                peer.backlog.popleft()
            while peer.ends:
                some = [end.message for end in islice(peer.ends, _ENDS_A_DATAGRAM)]
                self._send(peer, state_pb2.Batch(picker=self._id, ended=some).SerializeToString())
                for _ in some:
                    peer.ends.popleft()
            while peer.alive:
                ids = list(islice(peer.alive, _ENDS_A_DATAGRAM))
                self._send(peer, state_pb2.Batch(picker=self._id, alive=ids).SerializeToString())
                for _ in ids:
                    peer.alive.popleft()
        except BlockingIOError:
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            self._not_there(peer)
        return False

    def _send(self, peer: _Peer, data: bytes) -> None:
        try:
            self._socket.sendto(data, str(peer.path))
        except (BlockingIOError, FileNotFoundError, ConnectionRefusedError):
            raise
        except OSError as error:
            self.dropped_batches += 1
            log.warning("a batch for %s was not sent: %s", peer.path.name, error)

    def _not_there(self, peer: _Peer) -> None:
        """It has died or not begun, and starts with an empty picture; what was for it alone is for
        the others now."""
        orphaned = [end.message for end in peer.ends if end.for_it_alone]
        peer.backlog.clear()
        peer.ends.clear()
        peer.alive.clear()
        peer.heard_s = -math.inf
        self._count_live()
        for message in orphaned:
            for other in self._peers.values():
                if other is not peer:
                    self._add_end(other, _End(message, for_it_alone=False))

    # -- reports of others

    def _receive(self) -> None:
        for _ in range(64):
            try:
                size, sender = self._socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            try:
                batch = state_pb2.Batch.FromString(bytes(self._buffer[:size]))
            except DecodeError:
                self.unreadable += 1
                log.warning("a batch of another picker could not be read (%d bytes)", size)
                continue
            if sender:  # "": its socket has no name
                self._note(Path(sender).name, batch)
            for take in (
                self._take_loads,
                self._take_queues,
                self._take_sent,
                self._take_failures,
                self._take_ends,
                self.readings.take,
            ):
                try:
                    take(batch)
                except Exception:  # what one part cannot use, another may
                    self.unreadable += 1
                    log.exception("a part of another picker's batch could not be used")

    def _take_loads(self, batch: state_pb2.Batch) -> None:
        assert self._sink is not None
        for message in batch.loads:
            self._sink.peer_loads(batch.picker, digest.unpack(message))
        if self._queues is not None:
            for message in batch.loads:
                self._queues.peer_loads_changed(message.pool)

    def _take_queues(self, batch: state_pb2.Batch) -> None:
        if self._queues is not None:
            for message in batch.queues:
                self._queues.peer_queue(batch.picker, message.pool, queues.unpack(message))

    def _take_sent(self, batch: state_pb2.Batch) -> None:
        assert self._sink is not None
        for message in batch.sent:
            self._sink.peer_sent(prefixes.unpack(message))

    def _take_failures(self, batch: state_pb2.Batch) -> None:
        assert self._sink is not None
        for message in batch.taken_back:
            self._sink.peer_took_back(prefixes.unpack(message))
        self._sink.peer_found(map(findings.unpack, batch.breakers))

    def _take_ends(self, batch: state_pb2.Batch) -> None:
        assert self._sink is not None
        for message in batch.ended:
            self._sink.peer_ended(ends.unpack(message))
        if batch.alive:
            self._sink.peer_lives(batch.alive)

    # -- who lives

    def _note(self, name: str, batch: state_pb2.Batch) -> None:
        """Another picker has sent a batch, so it lives, unless it says otherwise."""
        peer = self._peers.get(name)
        if peer is None:
            return
        was_live = self._is_live(peer) and peer.picker == batch.picker
        peer.picker = batch.picker
        peer.heard_s = -math.inf if batch.leaving else self._clock()
        if batch.leaving or not was_live:
            self._count_live()
        if not batch.leaving and not was_live:
            self._flush(everything=True)  # it need not wait for our next sign of life

    def _is_live(self, peer: _Peer) -> bool:
        return self._clock() - peer.heard_s < _GONE_S

    def _count_live(self) -> None:
        live = {name: peer.picker for name, peer in self._peers.items() if self._is_live(peer)}
        members = tuple(sorted((self._own.name, *live)))
        if members != self.readings.members:
            self.readings.members = members
        if live != self._live and self._queues is not None:
            self._live = live
            self._queues.peers_live(live.values(), _FIRST_FLUSH_S + self._flush_s)
