"""Readings as columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.replication.readings import MAX_READINGS, Reading, SharedReadings, pack, unpack
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.wire import state_pb2

numbers = st.floats(0, 1e12)
adapters = st.frozensets(st.text(min_size=1, max_size=5), max_size=3)
signals = st.builds(
    Signals,
    waiting_requests=numbers,
    running_requests=numbers,
    kv_usage=st.floats(0, 1),
    kv_capacity_tokens=st.none() | numbers,
    kv_block_tokens=st.none() | st.integers(1, 1 << 20),
    max_loras=st.integers(0, 1000),
    running_adapters=adapters,
    waiting_adapters=adapters,
    first_tokens=st.none() | numbers,
)
readings = st.dictionaries(st.text(max_size=20), st.tuples(signals, numbers), max_size=6)
IDLE = Signals(0, 0, 0.5, None, None, 0, frozenset(), frozenset())


class Sink:
    def __init__(self) -> None:
        self.took: list[tuple[object, ...]] = []

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        self.took.append(("signals", pool, address, signals, started_s))

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        self.took.append(("models", pool, address, list(models), started_s))

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        self.took.append(("lack", pool, address, lack, reason, started_s))

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        self.took.append(("failed", pool, address, reason, started_s))


def shared(name: str = "a") -> SharedReadings:
    made = SharedReadings(name, lambda: None, lambda: None)
    made.members = ("a", "b")
    return made


def sent(from_: SharedReadings) -> state_pb2.Batch:
    return state_pb2.Batch.FromString(b"".join(part.SerializeToString() for part in from_.parts()))


@given(readings)
def test_what_is_packed_comes_out_again(read: dict[str, Reading]) -> None:
    message = state_pb2.Readings.FromString(pack("pool", read).SerializeToString())
    assert {address: (one, at_s) for address, one, at_s in unpack(message)} == read


@pytest.mark.parametrize("damage", ["short", "long", "nan"])
def test_columns_that_do_not_fit_are_refused(damage: str) -> None:
    message = pack("pool", {"x": (IDLE, 1.0), "y": (IDLE, 2.0)})
    if damage == "short":
        message.numbers = message.numbers[:-8]
    elif damage == "long":
        message.numbers += bytes(8)
    else:
        message.numbers = np.full(14, np.nan, "<f8").tobytes()
    with pytest.raises(ValueError):
        list(unpack(message))


def test_failures_then_models_then_signals() -> None:
    teller, hearer, sink = shared("a"), shared("b"), Sink()
    hearer.listen(sink)
    models = [ServedModel("m", None, 4096), ServedModel("sql", "m", None)]
    teller.apply_signals("pool", "x", IDLE, 3.0)
    teller.apply_models("pool", "x", models, 2.0)
    teller.mark_failed("pool", "x", "refused", 1.0)
    hearer.take(sent(teller))
    assert sink.took == [
        ("failed", "pool", "x", "refused", 1.0),
        ("models", "pool", "x", models, 2.0),
        ("signals", "pool", "x", IDLE, 3.0),
    ]


def test_what_is_missing_of_a_replica_is_shared() -> None:
    teller, hearer, sink = shared("a"), shared("b"), Sink()
    hearer.listen(sink)
    for lack in Lack:
        teller.apply_lack("pool", "x", lack, f"no {lack}", 1.0)
    hearer.take(sent(teller))
    assert sink.took == [("lack", "pool", "x", lack, f"no {lack}", 1.0) for lack in Lack]


def test_of_several_reads_the_last_one_is_sent_and_only_once() -> None:
    teller, hearer, sink = shared("a"), shared("b"), Sink()
    hearer.listen(sink)
    teller.apply_signals("pool", "x", IDLE, 1.0)
    teller.apply_signals("pool", "x", IDLE, 2.0)
    hearer.take(sent(teller))
    hearer.take(sent(teller))
    assert sink.took == [("signals", "pool", "x", IDLE, 2.0)]


def test_who_is_alone_keeps_nothing_for_others() -> None:
    alone = shared()
    alone.members = ("a",)
    alone.apply_signals("pool", "x", IDLE, 1.0)
    alone.apply_models("pool", "x", [], 1.0)
    alone.mark_failed("pool", "x", "refused", 1.0)
    assert sent(alone) == state_pb2.Batch()


def test_a_full_datagram_is_sent_at_once() -> None:
    calls: list[str] = []
    made = SharedReadings("a", lambda: calls.append("soon"), lambda: calls.append("now"))
    made.members = ("a", "b")
    for number in range(MAX_READINGS):
        made.apply_signals("pool", f"10.0.0.1:{number}", IDLE, 1.0)
    assert calls == ["soon"] * (MAX_READINGS - 1) + ["now"]
    assert len(sent(made).SerializeToString()) < 100_000
