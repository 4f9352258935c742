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

from picker.request.report import Ending, Report
from picker.seams.peers import Load, PeerSink, Sent
from picker.wire import state_pb2

log = logging.getLogger(__name__)

_FLUSH_S: Final = 0.005
_REFRESH_S: Final = 1.0
_MAX_BATCH_BYTES: Final = 64 * 1024
_MAX_BACKLOG: Final = 1024
"""Batches that wait for a peer that does not read; older ones are dropped."""
_BUFFER_BYTES: Final = 4 << 20
_MAX_DATAGRAM_BYTES: Final = 256 * 1024
_MAX_HASHES: Final = 8192
"""Of one request: the first 30 MB of a prompt. The rest of it the others do not get to know."""


class LocalPeers:
    """Tells every other picker of this host; lost batches only make their picture less exact."""

    def __init__(self, picker_id: str, *, own: Path, others: Iterable[Path] = ()) -> None:
        self._sink: PeerSink | None = None
        self._own = own
        self._others: dict[Path, deque[bytes]] = {}
        self.follow(others)
        self._batch = state_pb2.Batch(picker=picker_id)
        self._batch_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._refreshing: asyncio.TimerHandle | None = None
        self._everything = False
        self.dropped_batches = 0
        """That a peer which is there did not get."""
        self.unreadable = 0
        """Batches and events of others that could not be used."""

    def start(self, sink: PeerSink) -> None:
        """Listen for ``sink``. Raises OSError, for instance when the socket's path is too long."""
        self._own.unlink(missing_ok=True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._socket.bind(str(self._own))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        self._sink = sink
        self._refresh()

    def follow(self, others: Iterable[Path]) -> None:
        """Tell these from now on: pickers have come or gone."""
        self._others = {
            path: self._others.get(path, deque[bytes](maxlen=_MAX_BACKLOG)) for path in others
        }

    def stop(self) -> None:
        """Send what waits, once, and close."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._flush()
        self._others.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._own.unlink(missing_ok=True)

    def sent(self, sent: Sent) -> None:
        """See `Peers`."""
        if not self._others:
            return
        message = state_pb2.Sent(
            pool=sent.pool, address=sent.address, adapter=sent.adapter, session=sent.session
        )
        room = _MAX_HASHES
        for chain in sent.chains:
            if room <= 0:
                break
            message.chains.add(hashes=chain[:room])
            room -= len(chain)
        self._batch.sent.append(message)
        self._added(message.ByteSize())

    def loads_changed(self) -> None:
        """See `Peers`."""
        if self._others and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)

    def ended(self, report: Report) -> None:
        """See `Peers`."""
        if not self._others:
            return
        message = state_pb2.Finished(
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
        self._batch.finished.append(message)
        self._added(message.ByteSize())

    def _added(self, size_bytes: int) -> None:
        self._batch_bytes += size_bytes
        if self._batch_bytes >= _MAX_BATCH_BYTES:
            self._flush()
        else:
            self.loads_changed()

    def _refresh(self) -> None:
        """Send all loads again: heals what was lost, and informs peers that came late."""
        self._everything = True
        self.loads_changed()
        self._refreshing = asyncio.get_running_loop().call_later(_REFRESH_S, self._refresh)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sink is not None:
            for load in self._sink.loads(everything=self._everything):
                self._batch.loads.add(
                    pool=load.pool,
                    address=load.address,
                    requests=load.requests,
                    prefill_tokens=load.prefill_tokens,
                    kv_tokens=load.kv_tokens,
                )
        self._everything = False
        if self._batch.sent or self._batch.loads or self._batch.finished:
            data = self._batch.SerializeToString()
            self._batch = state_pb2.Batch(picker=self._batch.picker)
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
            self._take(batch)

    def _take(self, batch: state_pb2.Batch) -> None:
        sink = self._sink
        if sink is None:
            return
        try:
            for load in batch.loads:
                sink.peer_load(
                    batch.picker,
                    Load(
                        load.pool,
                        load.address,
                        load.requests,
                        load.prefill_tokens,
                        load.kv_tokens,
                    ),
                )
            for sent in batch.sent:
                chains = [list(chain.hashes) for chain in sent.chains]
                sink.peer_sent(Sent(sent.pool, sent.address, chains, sent.adapter, sent.session))
            for finished in batch.finished:
                sink.peer_ended(_report(finished))
        except Exception:
            self.unreadable += 1
            log.exception("a batch from another picker could not be used")


def _report(event: state_pb2.Finished) -> Report:
    return Report(
        id=event.id,
        owner=event.owner,
        address=event.address,
        status=event.status,
        reason=Ending(event.reason),
        input_tokens=event.input_tokens if event.HasField("input_tokens") else None,
        output_tokens=event.output_tokens if event.HasField("output_tokens") else None,
        cached_tokens=event.cached_tokens if event.HasField("cached_tokens") else None,
        streamed_events=event.streamed_events,
        ttft_s=event.ttft_s if event.HasField("ttft_s") else None,
        duration_s=event.duration_s,
        reasoning_tokens=event.reasoning_tokens if event.HasField("reasoning_tokens") else None,
        upstream_failed=event.upstream_failed,
    )
