"""What the workers of a host have read of replicas, as columns: from one worker to the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from picker.signals.sink import ScrapeSink
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.wire import state_pb2

MAX_READINGS: Final = 512
"""In one datagram: about 50 kB."""
_COLUMNS: Final = 8
_KNOWN_COLUMNS: Final = 4
"""The first ones, which every engine reports."""

Reading = tuple[Signals, float]
"""Signals, and when their read began."""


class SharedReadings:
    """Collects what this worker has read until it is sent, and hands on what comes from others."""

    def __init__(
        self, name: str, flush_soon: Callable[[], None], flush: Callable[[], None]
    ) -> None:
        """``flush_soon`` and ``flush`` make a batch be sent, within some milliseconds or now."""
        self.name = name
        """This worker's own; see `Sharing`."""
        self.members: tuple[str, ...] = (name,)
        """See `Sharing`."""
        self._flush_soon = flush_soon
        self._flush = flush
        self._sink: ScrapeSink | None = None
        self._signals: dict[str, dict[str, Reading]] = {}
        self._waiting = 0
        self._models: list[state_pb2.ModelList] = []
        self._failures: list[state_pb2.Failure] = []

    def listen(self, sink: ScrapeSink) -> None:
        """See `Sharing`."""
        self._sink = sink

    # -- what was read here

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        """See `ScrapeSink`."""
        if len(self.members) > 1:
            self._signals.setdefault(pool, {})[address] = signals, started_s
            self._added()

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        """See `ScrapeSink`."""
        if len(self.members) > 1:
            message = state_pb2.ModelList(pool=pool, address=address, started_s=started_s)
            for model in models:
                message.models.add(
                    id=model.id,
                    parent=model.parent,
                    max_model_tokens=model.max_model_tokens,
                    root=model.root,
                    created=model.created,
                )
            self._models.append(message)
            self._added(1 + len(models))

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        """See `ScrapeSink`."""
        self._fail(pool, address, lack.value, reason, started_s)

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        """See `ScrapeSink`."""
        self._fail(pool, address, "", reason, started_s)

    def _fail(self, pool: str, address: str, lack: str, reason: str, started_s: float) -> None:
        if len(self.members) > 1:
            self._failures.append(
                state_pb2.Failure(
                    pool=pool, address=address, started_s=started_s, reason=reason, lack=lack
                )
            )
            self._added()

    def _added(self, entries: int = 1) -> None:
        self._waiting += entries
        if self._waiting >= MAX_READINGS:
            self._flush()
        else:
            self._flush_soon()

    def parts(self) -> Iterator[state_pb2.Batch]:
        """What was collected, to be sent now."""
        yield from (state_pb2.Batch(failures=[failure]) for failure in self._failures)
        yield from (state_pb2.Batch(model_lists=[listed]) for listed in self._models)
        for pool, read in self._signals.items():
            yield state_pb2.Batch(readings=[pack(pool, read)])
        self._signals, self._models, self._failures, self._waiting = {}, [], [], 0

    # -- what others have read

    def take(self, batch: state_pb2.Batch) -> None:
        """Hand on another worker's batch. Raises ValueError when its columns do not fit."""
        sink = self._sink
        if sink is None:
            return
        for failure in batch.failures:
            about = (failure.reason, failure.started_s)
            if failure.lack:
                sink.apply_lack(failure.pool, failure.address, Lack(failure.lack), *about)
            else:
                sink.mark_failed(failure.pool, failure.address, *about)
        # Models before signals: a replica that has come back is no candidate without them.
        for listed in batch.model_lists:
            models = [
                ServedModel(
                    model.id,
                    model.parent if model.HasField("parent") else None,
                    model.max_model_tokens if model.HasField("max_model_tokens") else None,
                    model.root if model.HasField("root") else None,
                    model.created if model.HasField("created") else None,
                )
                for model in listed.models
            ]
            sink.apply_models(listed.pool, listed.address, models, listed.started_s)
        for readings in batch.readings:
            for address, signals, started_s in unpack(readings):
                sink.apply_signals(readings.pool, address, signals, started_s)


def pack(pool: str, read: Mapping[str, Reading]) -> state_pb2.Readings:
    """Readings by address as columns."""
    message = state_pb2.Readings(pool=pool, addresses=list(read))
    numbers: list[float] = []
    for index, (signals, started_s) in enumerate(read.values()):
        numbers += (
            started_s,
            signals.waiting_requests,
            signals.running_requests,
            signals.kv_usage,
            _or_nan(signals.kv_capacity_tokens),
            _or_nan(signals.kv_block_tokens),
            signals.max_loras,
            _or_nan(signals.first_tokens),
        )
        if signals.running_adapters or signals.waiting_adapters:
            message.adapters.add(
                index=index,
                running=sorted(signals.running_adapters),
                waiting=sorted(signals.waiting_adapters),
            )
    message.numbers = np.array(numbers, "<f8").tobytes()
    return message


def unpack(message: state_pb2.Readings) -> Iterator[tuple[str, Signals, float]]:
    """Address, signals and start of each reading. Raises ValueError when the columns do not fit."""
    addresses = message.addresses
    numbers = np.frombuffer(message.numbers, "<f8").reshape(len(addresses), _COLUMNS)
    if not np.isfinite(numbers[:, :_KNOWN_COLUMNS]).all():
        raise ValueError("a reading has numbers that are none")
    adapters = {one.index: one for one in message.adapters}
    for index, (address, row) in enumerate(zip(addresses, numbers.tolist(), strict=True)):
        started_s, waiting, running, kv_usage, capacity, block, max_loras, first_tokens = row
        known = adapters.get(index)
        signals = Signals(
            waiting_requests=waiting,
            running_requests=running,
            kv_usage=kv_usage,
            kv_capacity_tokens=None if math.isnan(capacity) else capacity,
            kv_block_tokens=None if math.isnan(block) else int(block),
            max_loras=int(max_loras),
            running_adapters=_NONE if known is None else frozenset(known.running),
            waiting_adapters=_NONE if known is None else frozenset(known.waiting),
            first_tokens=None if math.isnan(first_tokens) else first_tokens,
        )
        yield address, signals, started_s


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


_NONE: Final[frozenset[str]] = frozenset()
