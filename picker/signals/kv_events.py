"""KV events of all replicas: which streams there are, by pool, address and data-parallel rank."""

from __future__ import annotations

import ipaddress
import logging
import resource
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import zmq

from picker.signals.kv_replays import Replays
from picker.signals.kv_stream import KvEndpoint, KvStats, KvStream
from picker.signals.turns import Turns
from picker.state.pool import PoolRuntime
from picker.state.spec import EndpointSpec

log = logging.getLogger(__name__)

_HIGHEST_PORT: Final = 65_535
_MOST_STREAMS: Final = 256
"""Of one process: each worker takes in all events, and more would cost it more than they save."""
_SOCKETS_OF_A_STREAM: Final = 4
"""ZeroMQ's: the subscriber, both ends of its monitor, a replay."""
_FILES_OF_A_STREAM: Final = 6
"""One for each of these, and the two connections."""


@dataclass(frozen=True, slots=True)
class KvSettings:
    """Where the replicas of a pool publish KV events."""

    port: int
    """Of the PUB socket of rank 0; each further rank has the next one."""
    replay_port: int | None
    """Of the ROUTER, likewise; None: there is none."""
    topic: str = ""
    ranks: int = 1
    """Data-parallel ranks behind each address."""
    guessed: bool = False
    """Nobody has said that there are any."""


class KvEvents:
    """Subscribes to the replicas that are assigned, in the loop that it was opened in."""

    def __init__(self) -> None:
        self.stats = KvStats()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._most_streams = 0
        """At most as many as take half of the files that this process may open."""
        self._turns, self._replays = Turns(), Replays()
        self._streams: dict[tuple[str, str, int], KvStream] = {}
        self._slots: dict[tuple[str, str, int], int] = {}
        self._runtimes: dict[str, PoolRuntime] = {}
        self._hosts: dict[str, Counter[str]] = {}
        """By pool: how many of its replicas each host has."""

    def open(self) -> None:
        """Before the first `sync`."""
        files = _files(2 * _FILES_OF_A_STREAM * _MOST_STREAMS)
        self._most_streams = max(0, min(_MOST_STREAMS, files // 2 // _FILES_OF_A_STREAM))
        self._context = zmq.Context()
        limit = _SOCKETS_OF_A_STREAM * self._most_streams
        self._context.set(zmq.MAX_SOCKETS, min(limit, self._context.get(zmq.SOCKET_LIMIT)))

    def close(self) -> None:
        """End all streams."""
        for key in list(self._streams):
            self._drop(key)
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)

    def sync(
        self, runtime: PoolRuntime, settings: KvSettings | None, specs: Mapping[str, EndpointSpec]
    ) -> None:
        """Make the streams of a pool be those of these endpoints. ``settings`` None: none."""
        pool = runtime.name
        self._hosts[pool] = Counter(_host(address) for address in specs)
        wanted: dict[tuple[str, str, int], KvEndpoint] = {}
        for address, spec in specs.items():
            for rank, endpoint in self._endpoints(spec, settings):
                wanted[pool, address, rank] = endpoint
        same_pool = self._runtimes.get(pool) is runtime
        for key, stream in list(self._streams.items()):
            same = wanted.get(key) == stream.endpoint
            same_slot = runtime.state.slot_of.get(key[1]) == self._slots[key]
            if key[0] == pool:
                if not (same_pool and same and same_slot):
                    self._drop(key)
            elif stream.endpoint.guessed and not self._may_guess(_host(key[1])):
                self._drop(key)  # this pool has a replica on that host too
        self._runtimes[pool] = runtime
        new = [key for key in wanted if key not in self._streams]
        room = max(0, self._most_streams - len(self._streams))
        for key in new[:room]:
            self._listen(key, wanted[key])
        if new[room:]:
            log.warning("pool %s: no files for %d streams of KV events", pool, len(new) - room)

    def drop(self, pool: str) -> None:
        """The pool is gone."""
        for key in list(self._streams):
            if key[0] == pool:
                self._drop(key)
        self._runtimes.pop(pool, None)
        self._hosts.pop(pool, None)

    def _endpoints(
        self, spec: EndpointSpec, settings: KvSettings | None
    ) -> Iterable[tuple[int, KvEndpoint]]:
        host, told = _host(spec.address), spec.kv_events
        if settings is None:
            return
        if told is not None:
            replay = _tcp(host, told.replay_port) if told.replay_port is not None else None
            yield 0, KvEndpoint(_tcp(host, told.port), replay, settings.topic)
            return
        if settings.guessed and not self._may_guess(host):
            return
        first = spec.rank or 0
        for rank in range(first, first + settings.ranks):
            replay_port = settings.replay_port
            if settings.port + rank > _HIGHEST_PORT:
                continue
            yield (
                rank,
                KvEndpoint(
                    _tcp(host, settings.port + rank),
                    None if replay_port is None else _tcp(host, replay_port + rank),
                    settings.topic,
                    settings.guessed,
                ),
            )

    def _may_guess(self, host: str) -> bool:
        """One replica has the host for itself, and the host is none of the internet's."""
        if sum(hosts[host] for hosts in self._hosts.values()) > 1:
            return False
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return address.is_private and not address.is_loopback

    def _listen(self, key: tuple[str, str, int], endpoint: KvEndpoint) -> None:
        pool, address, _ = key
        runtime = self._runtimes[pool]
        slot = runtime.state.slot_of.get(address)
        if slot is None or self._context is None:
            return
        try:
            feed = runtime.cache.join(slot)
        except OverflowError as error:
            log.warning("KV events of %s: %s", address, error)
            return
        stream = KvStream(endpoint, feed, self._context, self._turns, self._replays, self.stats)
        try:
            stream.open()
        except zmq.ZMQError as error:
            log.warning("KV events of %s: %s: %s", address, endpoint.events, error)
            runtime.cache.part(feed)
            return
        self._streams[key], self._slots[key] = stream, slot

    def _drop(self, key: tuple[str, str, int]) -> None:
        stream = self._streams.pop(key)
        del self._slots[key]
        stream.close()
        self._runtimes[key[0]].cache.part(stream.feed)


def _files(wanted: int) -> int:
    """How many files this process may open: so many if it is allowed to say so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _tcp(host: str, port: int) -> str:
    return f"tcp://{host}:{port}"
