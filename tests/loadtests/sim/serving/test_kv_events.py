"""KV events of the simulated replica, read from real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import aiohttp
import psutil
import pytest

from loadtests.sim.model.profile import built_in
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.kv_events import KvEvents
from loadtests.sim.serving.kv_publisher import EndpointError, PublisherOptions
from loadtests.sim.serving.replica import ReplicaSettings, SimulatedReplica
from loadtests.sim.serving.server import ReplicaServer
from tests.loadtests.sim.serving.kv_replica import Replica as Simulated
from tests.loadtests.sim.serving.kv_replica import tokens
from tests.loadtests.sim.serving.kv_subscriber import Batch, Subscriber, listening, replay

SIZE = 4
LOOPBACK = PublisherOptions(endpoint="tcp://*:0", replay_endpoint="tcp://*:0")
LIMITS = EngineLimits(
    num_blocks=100,
    block_size_tokens=SIZE,
    max_num_seqs=8,
    max_num_batched_tokens=16,
    max_model_len=200,
)

Make = Callable[..., KvEvents]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def made(options: PublisherOptions = LOOPBACK, adapters: Sequence[str] = ()) -> KvEvents:
            events = KvEvents(options, block_size_tokens=SIZE, adapters=adapters, host="127.0.0.1")
            stack.callback(events.close)
            return events

        yield made


def told(events: KvEvents) -> list[list[dict[str, Any]]]:
    """Events by batch, as far as published: the replay has them all."""
    endpoint = events.publisher.replay_endpoint
    assert endpoint is not None
    return [batch.events for batch in replay(endpoint)]


def flat(events: KvEvents) -> list[dict[str, Any]]:
    return [event for batch in told(events) for event in batch]


def short(event: dict[str, Any]) -> tuple[str, list[int]]:
    return event["type"], event.get("block_hashes", [])


def publish(events: KvEvents, times: int = 1, *, blocks: int = 1) -> None:
    """Batches of one event."""
    ids = range(blocks)
    events.announce(ids, tokens(range(blocks * SIZE)), None)
    for _ in range(times):
        events.stored(ids, None)
        events.stepped()
        events.flush()
    events.withdraw(ids)


def subscribed(subscriber: Subscriber, events: KvEvents) -> int:
    """Publish until the subscriber hears it; the number of the next batch."""
    for _ in range(2000):
        publish(events)
        if subscriber.waiting(10):
            break
    last = subscriber.take()
    while subscriber.waiting(200):
        last = subscriber.take()
    return last.number + 1


# What is told


def test_a_prompt_is_one_event_with_all_fields_of_vllm(make: Make) -> None:
    replica = Simulated(make(), LIMITS)
    ids = replica.ask(range(1, 15))
    endpoint = replica.events.publisher.replay_endpoint
    assert endpoint is not None
    (batch,) = replay(endpoint)
    ts, events, rank = batch.content
    assert isinstance(ts, float)
    assert rank == 0
    assert events == [
        {
            "type": "BlockStored",
            "block_hashes": list(ids),
            "parent_block_hash": None,
            "token_ids": list(range(1, 13)),
            "block_size": SIZE,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
            "extra_keys": [None, None, None],
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }
    ]
    assert list(events[0]) == [
        *("type", "block_hashes", "parent_block_hash", "token_ids", "block_size"),
        *("lora_id", "medium", "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind"),
    ]


def test_each_step_of_a_long_prompt_adds_to_the_chain(make: Make) -> None:
    replica = Simulated(make(), replace(LIMITS, max_num_batched_tokens=10, async_scheduling=False))
    ids = replica.ask(range(27))
    assert [
        [(e["block_hashes"], e["parent_block_hash"]) for e in b] for b in told(replica.events)
    ] == [
        [([ids[0], ids[1]], None)],
        [([ids[2], ids[3], ids[4]], ids[1])],
        [([ids[5]], ids[4])],
    ]


def test_a_batch_comes_when_its_step_ends(make: Make) -> None:
    replica = Simulated(make(), replace(LIMITS, async_scheduling=False))
    replica.send(range(8))
    replica.engine.advance(0.0)
    replica.events.flush()
    assert told(replica.events) == []  # scheduled, not computed
    replica.run()
    assert len(told(replica.events)) == 1


@pytest.mark.parametrize("ahead", [False, True])
def test_an_answer_is_told_block_by_block_however_far_the_engine_runs_at_once(
    make: Make, *, ahead: bool
) -> None:
    limits = replace(LIMITS, async_scheduling=ahead, num_blocks=18, max_model_len=72)
    leaping, stepping = Simulated(make(), limits, leaps=True), Simulated(make(), limits)
    for replica in (leaping, stepping):
        replica.ask(range(500, 560), range(560, 565))
        replica.send(range(6), range(100, 130))
        replica.send(range(50, 59), range(200, 225))
        replica.run()
    assert leaping.advances < stepping.advances / 2
    assert told(leaping.events) == told(stepping.events)
    events = [e for e in flat(leaping.events) if e["type"] == "BlockStored"]
    assert len(flat(leaping.events)) - len(events) > 10
    chain = [e for e in events if e["token_ids"][0] < 50 or 100 <= e["token_ids"][0] < 200]
    # The last token of an answer is never computed.
    assert [t for e in chain for t in e["token_ids"]] == [*range(6), *range(100, 126)]
    assert [e["parent_block_hash"] for e in chain[1:]] == [
        e["block_hashes"][-1] for e in chain[:-1]
    ]


def test_what_is_cached_is_not_told_again(make: Make) -> None:
    replica = Simulated(make(), LIMITS)
    first = replica.ask(range(12))
    second = replica.ask([*range(12), 90, 91, 92, 93, 94])
    assert [short(e) for e in flat(replica.events)] == [
        ("BlockStored", list(first)),
        ("BlockStored", [second[3]]),
    ]
    assert flat(replica.events)[1]["parent_block_hash"] == first[2]


def test_two_prompts_of_one_step_are_two_events_though_one_extends_the_other(make: Make) -> None:
    replica = Simulated(make(), LIMITS)
    short_ids = replica.send(range(4))
    long_ids = replica.send(range(10))
    replica.run()
    (batch,) = told(replica.events)
    assert [(e["block_hashes"], e["parent_block_hash"]) for e in batch] == [
        ([short_ids[0]], None),
        ([long_ids[1]], long_ids[0]),
    ]


def test_blocks_are_removed_from_the_end_of_the_oldest_chain(make: Make) -> None:
    replica = Simulated(make(), replace(LIMITS, num_blocks=6, max_model_len=24))
    old = replica.ask(range(12))
    new = replica.ask(range(100, 116))
    events = told(replica.events)[1]
    assert [short(e) for e in events] == [
        ("BlockRemoved", [old[2]]),
        ("BlockStored", list(new)),
    ]
    assert events[0] == {
        "type": "BlockRemoved",
        "block_hashes": [old[2]],
        "medium": "GPU",
        "group_idx": 0,
    }


def test_a_block_that_is_computed_twice_is_stored_and_removed_twice(make: Make) -> None:
    replica = Simulated(make(), replace(LIMITS, num_blocks=4, max_model_len=16))
    (one,) = replica.ask(range(4))
    replica.ask(range(4))  # the last token has to be computed, and with it its block
    replica.ask(range(100, 115))
    kinds = [short(e) for e in flat(replica.events)]
    assert kinds[:2] == [("BlockStored", [one])] * 2
    assert kinds.count(("BlockRemoved", [one])) == 2


def test_clearing_is_told_with_the_next_step(make: Make) -> None:
    replica = Simulated(make(), LIMITS)
    first = replica.ask(range(4))
    assert replica.engine.scheduler.pool.forget_free()
    replica.events.flush()
    assert len(told(replica.events)) == 1
    assert replica.ask(range(4)) == first
    assert [[short(e) for e in batch] for batch in told(replica.events)] == [
        [("BlockStored", list(first))],
        [("AllBlocksCleared", []), ("BlockStored", list(first))],
    ]
    assert told(replica.events)[1][0] == {"type": "AllBlocksCleared"}


def test_adapters_salts_and_sessions(make: Make) -> None:
    replica = Simulated(make(adapters=("poet", "clerk")), replace(LIMITS, max_loras=4))
    replica.send(range(8), adapter="clerk", cache_salt="mine", session_id="s-1")
    replica.send(range(8), adapter="late")
    replica.send(range(8), cache_salt="mine")
    replica.run()
    keys = ("lora_id", "lora_name", "extra_keys", "session_id")
    assert [[event.get(key) for key in keys] for event in flat(replica.events)] == [
        [2, "clerk", [["clerk", "mine"], ["clerk"]], "s-1"],
        [3, "late", [["late"], ["late"]], None],
        [None, None, [["mine"], None], None],
    ]


def test_an_abort_leaves_the_events_of_what_was_computed(make: Make) -> None:
    replica = Simulated(make(), LIMITS)
    ids = replica.send(range(9), range(100, 150))
    replica.run(until_s=0.05)
    (sequence,) = replica.engine.scheduler.running
    assert not sequence.done
    replica.engine.abort(sequence, 0.055)
    replica.run()
    assert flat(replica.events)[0]["block_hashes"] == list(ids[:2])
    assert replica.ask(range(9))[:2] == ids[:2]
    assert flat(replica.events)[-1]["block_hashes"] != list(ids[:2])  # they are cached


def test_a_block_is_known_while_any_request_that_announced_it_lasts(make: Make) -> None:
    events = make()
    for _ in range(2):
        events.announce([7], tokens([1, 2, 3, 4]), None)
    events.withdraw([7])
    events.stored([7], None)
    events.withdraw([7])
    with pytest.raises(LookupError, match="7"):
        events.stored([7], None)


def test_a_request_that_shares_its_beginning_is_told_with_its_own_tokens(make: Make) -> None:
    events = make()
    events.announce([7, 8], tokens([1, 2, 3, 4, 5, 6, 7, 8]), None, session_id="first")
    events.announce([7, 9, 10], tokens([1, 2, 3, 4, *range(90, 98)]), None, session_id="second")
    events.stored([7, 9, 10], None)  # the first one's blocks are gone, or it waits
    events.stepped()
    events.flush()
    (event,) = flat(events)
    assert event["token_ids"] == [1, 2, 3, 4, *range(90, 98)]
    assert event["session_id"] == "second"


def test_blocks_without_enough_tokens_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="7 tokens do not fill 2 blocks of 4"):
        make().announce([1, 2], tokens(range(7)), None)


async def test_a_replica_tells_of_the_requests_that_it_gets(http: aiohttp.ClientSession) -> None:
    limits = EngineLimits(256, max_model_len=1024, max_loras=1)
    settings = ReplicaSettings(
        models=("base",),
        engine=EngineSettings(built_in("constant-step"), limits, time_scale=0.0),
        adapters=("poet",),
        kv_events=LOOPBACK,
    )
    server = ReplicaServer(SimulatedReplica(settings, host="127.0.0.1"))
    await server.start()
    try:
        assert server.replica.kv_events is not None
        url = f"http://{server.address}"
        body = {"prompt": list(range(40)), "max_tokens": 30, "ignore_eos": True}
        own = {"cache_salt": "mine", "session_id": "s-1"}
        for sent in ({"model": "base"}, {"model": "poet"} | own, {"model": "poet"} | own):
            async with http.post(f"{url}/v1/completions", json=body | sent) as answer:
                assert answer.status == 200
        async with http.post(f"{url}/reset_prefix_cache") as answer:
            assert answer.status == 200
        last = body | {"model": "base", "vllm_xargs": {"session_id": "not this one"}}
        named = {"x-session-id": "s-2"}
        async with http.post(f"{url}/v1/completions", json=last, headers=named) as answer:
            assert answer.status == 200
        events = await asyncio.to_thread(flat, server.replica.kv_events)
    finally:
        await server.stop()
    first = next(event for event in events if event["type"] == "BlockStored")
    assert first["token_ids"] == list(range(32))
    prompts = [event for event in events if not event.get("parent_block_hash")]
    keys = ("type", "lora_name", "extra_keys", "session_id")
    assert [tuple(map(event.get, keys)) for event in prompts] == [
        ("BlockStored", None, [None, None], None),
        ("BlockStored", "poet", [["poet", "mine"], ["poet"]], "s-1"),
        ("AllBlocksCleared", None, None, None),
        ("BlockStored", None, [None, None], "s-2"),
    ]
    # Of the four blocks of prompt and answer, the request that came again found two.
    assert sum(len(e.get("block_hashes", [])) for e in events) == 3 * 4 + 2


# How it travels


def test_subscribers_get_topic_number_and_payload_in_order(make: Make) -> None:
    events = make(replace(LOOPBACK, topic="kv@one"))
    with listening(events.publisher.endpoint, topic="kv@") as subscriber:
        first = subscribed(subscriber, events)
        replica = Simulated(events, LIMITS)
        for start in range(0, 500, 5):
            replica.ask(range(start, start + 5))
        got = [subscriber.take() for _ in range(100)]
    assert [batch.number for batch in got] == list(range(first, first + 100))
    assert {batch.topic for batch in got} == {b"kv@one"}
    assert [batch.events[-1]["token_ids"][0] for batch in got] == list(range(0, 500, 5))


def test_an_endpoint_without_a_wildcard_is_connected_to(make: Make) -> None:
    first = make()  # has a free port for the subscriber to listen on
    endpoint = first.publisher.endpoint
    first.close()
    with listening(endpoint, bind=True) as subscriber:
        events = make(replace(LOOPBACK, endpoint=endpoint))
        assert subscribed(subscriber, events) > 0


def test_a_gap_is_filled_by_the_replay(make: Make) -> None:
    events = make()
    assert events.publisher.replay_endpoint is not None
    publish(events, 20)
    batches = replay(events.publisher.replay_endpoint, 15)
    assert [batch.number for batch in batches] == [15, 16, 17, 18, 19]
    assert replay(events.publisher.replay_endpoint, 20) == []
    with listening(events.publisher.endpoint) as subscriber:
        end = subscribed(subscriber, events)
        publish(events)
        live = subscriber.take()
    assert replay(events.publisher.replay_endpoint, end) == [live]


def test_the_replay_holds_the_latest_batches_only(make: Make) -> None:
    events = make(replace(LOOPBACK, buffer_steps=8))
    assert events.publisher.replay_endpoint is not None
    publish(events, 30)
    numbers = [batch.number for batch in replay(events.publisher.replay_endpoint)]
    assert numbers == list(range(22, 30))


def test_a_slow_subscriber_sees_a_gap_and_asks_for_it(make: Make) -> None:
    events = make(replace(LOOPBACK, hwm=5))
    assert events.publisher.replay_endpoint is not None
    with listening(events.publisher.endpoint, keeps=5) as subscriber:
        first = subscribed(subscriber, events)
        publish(events, 400, blocks=2000)  # about 30 MB, more than sockets hold
        everything = replay(events.publisher.replay_endpoint, first)
        got: list[Batch] = []
        while subscriber.waiting(500):
            got.append(subscriber.take())
    numbers = [batch.number for batch in got]
    assert 0 < len(numbers) < 400
    assert numbers == sorted(set(numbers))
    assert [batch.number for batch in everything] == list(range(first, first + 400))
    assert set(got) <= set(everything)
    assert events.publisher.dropped_batches == 0


def test_a_full_queue_drops_batches_counts_them_and_shows_in_the_numbers(make: Make) -> None:
    events = make(replace(LOOPBACK, max_queue_size=1, buffer_steps=1_000_000))
    assert events.publisher.replay_endpoint is not None
    published = 0
    while not events.publisher.dropped_batches and published < 200_000:
        publish(events, 100, blocks=200)
        published += 100
    dropped = events.publisher.dropped_batches
    assert dropped
    numbers = [batch.number for batch in replay(events.publisher.replay_endpoint)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == published - dropped
    assert numbers[0] == 0
    assert numbers[-1] < published


def test_closing_leaves_nothing_and_a_restart_begins_at_zero() -> None:
    process = psutil.Process()
    options = LOOPBACK
    numbers: list[list[int]] = []
    with closing(KvEvents(options, block_size_tokens=SIZE, host="127.0.0.1")):
        pass  # what libraries open once and for all
    before = process.num_threads(), process.num_fds()
    for _ in range(3):
        events = KvEvents(options, block_size_tokens=SIZE, host="127.0.0.1")
        assert process.num_threads() > before[0]
        options = replace(
            options,
            endpoint=events.publisher.endpoint.replace("127.0.0.1", "*"),
            replay_endpoint=events.publisher.replay_endpoint,
        )
        publish(events, 3)
        assert events.publisher.replay_endpoint is not None
        numbers.append([batch.number for batch in replay(events.publisher.replay_endpoint)])
        events.close()
        events.close()
        # A thread that has ended may still be counted for a moment.
        for _ in range(200):
            if (process.num_threads(), process.num_fds()) == before:
                break
            time.sleep(0.02)
        assert (process.num_threads(), process.num_fds()) == before
    assert numbers == [[0, 1, 2]] * 3


def test_an_endpoint_in_use_is_named() -> None:
    with closing(KvEvents(LOOPBACK, block_size_tokens=SIZE, host="127.0.0.1")) as events:
        taken = replace(LOOPBACK, replay_endpoint=events.publisher.endpoint)
        before = psutil.Process().num_threads()
        with pytest.raises(EndpointError, match=rf"{events.publisher.endpoint}: .*in use"):
            KvEvents(taken, block_size_tokens=SIZE, host="127.0.0.1")
        assert psutil.Process().num_threads() == before


def test_a_batch_that_cannot_be_sent_is_a_gap_and_not_the_end(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    events = make()
    publish(events)
    events.publisher.publish("half a surrogate pair: \ud800")
    publish(events)
    endpoint = events.publisher.replay_endpoint
    assert endpoint is not None
    assert [batch.number for batch in replay(endpoint)] == [0, 2]
    assert events.publisher.dropped_batches == 1
    assert "batch 1 cannot be encoded" in caplog.text


async def test_a_session_id_of_no_text_is_told_as_far_as_it_can_be() -> None:
    settings = ReplicaSettings(
        models=("m",),
        engine=EngineSettings(built_in("constant-step"), LIMITS, time_scale=0.0),
        kv_events=LOOPBACK,
    )
    replica = SimulatedReplica(settings, host="127.0.0.1")
    server = ReplicaServer(replica)
    await server.start()
    body = b'{"prompt": "sixteen bytes it", "max_tokens": 4}'
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"X-Session-ID: a\xff\r\nX-Request-Id: b\xff\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    writer.write(body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert '"id":"cmpl-b\ufffd"'.encode() in answer
    assert replica.kv_events is not None
    (stored, *_) = await asyncio.to_thread(flat, replica.kv_events)
    assert stored["session_id"] == "a\ufffd"
    await server.stop()


def test_a_port_there_cannot_be_is_named() -> None:
    with pytest.raises(EndpointError, match=r"tcp://\*:99999: ports are 0 to 65535"):
        KvEvents(PublisherOptions("tcp://*:99999"), block_size_tokens=SIZE)
