"""Pickers of one host: batches of events as datagrams over unix sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from picker.core import Picker
from picker.request.report import Report
from picker.seams.peers import Alone, PeerDispatch
from picker.wire import state_pb2

log = logging.getLogger(__name__)

_FLUSH_S: Final = 0.005
_MAX_BATCH_BYTES: Final = 64 * 1024
_MAX_BACKLOG: Final = 1024
"""Batches that wait for a peer that does not read; older ones are dropped."""
_BUFFER_BYTES: Final = 4 << 20
_MAX_DATAGRAM_BYTES: Final = 256 * 1024
_MAX_HASHES: Final = 8192
"""Of one request: the first 30 MB of a prompt. The rest of it the others do not get to know."""


class LocalPeers:
    """Tells every other picker of this host; lost batches only make their picture less exact."""

    def __init__(self, picker: Picker, *, own: Path, others: Iterable[Path]) -> None:
        self._picker = picker
        self._own = own
        self._others: dict[Path, deque[bytes]] = {}
        self.follow(others)
        self._batch = state_pb2.Batch(picker=picker.id)
        self._batch_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.dropped_batches = 0
        """That a peer which is there did not get."""
        self.unreadable = 0
        """Batches and events of others that could not be used."""

    def start(self) -> None:
        """Listen, and be the picker's peers from now on. Raises OSError, for instance when the
        socket's path is too long."""
        self._own.unlink(missing_ok=True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._socket.bind(str(self._own))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        self._picker.traffic.peers = self

    def follow(self, others: Iterable[Path]) -> None:
        """Tell these from now on: pickers have come or gone."""
        self._others = {
            path: self._others.get(path, deque[bytes](maxlen=_MAX_BACKLOG)) for path in others
        }

    def stop(self) -> None:
        """Send what waits, once, and close."""
        self._picker.traffic.peers = Alone()
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._own.unlink(missing_ok=True)

    def dispatched(self, sent: PeerDispatch) -> None:
        """A request was sent by this picker."""
        if not self._others:
            return
        event = state_pb2.Dispatched(
            id=sent.id,
            pool=sent.pool,
            address=sent.address,
            prompt_tokens=sent.prompt_tokens,
            uncached_tokens=sent.uncached_tokens,
            output_tokens=sent.output_tokens,
            adapter=sent.adapter,
            session=sent.session,
        )
        room = _MAX_HASHES
        for chain in sent.chains:
            if room <= 0:
                break
            event.chains.add(hashes=chain[:room])
            room -= len(chain)
        self._add(state_pb2.Event(dispatched=event))

    def finished(self, report: Report) -> None:
        """The data plane told this picker of a request's end."""
        if not self._others:
            return
        event = state_pb2.Finished(
            id=report.id,
            owner=report.owner,
            address=report.address,
            status=report.status,
            reason=report.reason,
            input_tokens=report.input_tokens,
            output_tokens=report.output_tokens,
            cached_tokens=report.cached_tokens,
            streamed_events=report.streamed_events,
            ttft_s=report.ttft_s,
            duration_s=report.duration_s,
            reasoning_tokens=report.reasoning_tokens,
            upstream_failed=report.upstream_failed,
        )
        self._add(state_pb2.Event(finished=event))

    def _add(self, event: state_pb2.Event) -> None:
        self._batch.events.append(event)
        self._batch_bytes += event.ByteSize()
        if self._batch_bytes >= _MAX_BATCH_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._batch.events:
            data = self._batch.SerializeToString()
            self._batch.ClearField("events")
            self._batch_bytes = 0
            for waiting in self._others.values():
                self.dropped_batches += len(waiting) == _MAX_BACKLOG
                waiting.append(data)
        blocked = [self._send(path, waiting) for path, waiting in self._others.items()]
        if any(blocked) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)

    def _send(self, path: Path, waiting: deque[bytes]) -> bool:
        """True when the peer is there but does not read fast enough."""
        while waiting:
            try:
                self._socket.sendto(waiting[0], str(path))
            except BlockingIOError:
                return True
            except (FileNotFoundError, ConnectionRefusedError):
                waiting.clear()  # not there: it starts with an empty picture anyway
            except OSError as error:
                waiting.popleft()
                self.dropped_batches += 1
                log.warning("a batch for %s was not sent: %s", path.name, error)
            else:
                waiting.popleft()
        return False

    def _receive(self) -> None:
        for _ in range(64):
            try:
                data = self._socket.recv(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            try:
                batch = state_pb2.Batch.FromString(data)
            except DecodeError:
                self.unreadable += 1
                log.warning("a batch from another picker could not be read (%d bytes)", len(data))
                continue
            for event in batch.events:
                self._take(event)

    def _take(self, event: state_pb2.Event) -> None:
        try:
            if event.HasField("dispatched"):
                self._picker.traffic.peer_dispatched(_dispatch(event.dispatched))
            elif event.HasField("finished"):
                self._picker.traffic.peer_finished(_report(event.finished))
        except Exception:  # one bad event must not lose the others of its batch
            self.unreadable += 1
            log.exception("an event from another picker could not be used")


def _dispatch(event: state_pb2.Dispatched) -> PeerDispatch:
    return PeerDispatch(
        id=event.id,
        pool=event.pool,
        address=event.address,
        prompt_tokens=event.prompt_tokens,
        uncached_tokens=event.uncached_tokens,
        output_tokens=event.output_tokens,
        chains=[list(chain.hashes) for chain in event.chains],
        adapter=event.adapter,
        session=event.session,
    )


def _report(event: state_pb2.Finished) -> Report:
    return Report(
        id=event.id,
        owner=event.owner,
        address=event.address,
        status=event.status,
        reason=event.reason,
        input_tokens=event.input_tokens if event.HasField("input_tokens") else None,
        output_tokens=event.output_tokens if event.HasField("output_tokens") else None,
        cached_tokens=event.cached_tokens if event.HasField("cached_tokens") else None,
        streamed_events=event.streamed_events,
        ttft_s=event.ttft_s if event.HasField("ttft_s") else None,
        duration_s=event.duration_s,
        reasoning_tokens=event.reasoning_tokens if event.HasField("reasoning_tokens") else None,
        upstream_failed=event.upstream_failed,
    )
