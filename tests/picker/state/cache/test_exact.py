"""What is known of caches: by events where they come, else by what was sent."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from picker.prompt.blocks import Blocks, hash_blocks
from picker.prompt.forms import Prompt
from picker.prompt.token_blocks import PromptTokens, token_bytes
from picker.state.cache.events import AllBlocksCleared, BlockRemoved, BlockStored
from picker.state.cache.exact import TIER_CREDIT, ExactIndex
from picker.state.cache.feed import Feed, FeedState
from picker.state.cache.index import Reuse

SIZE = 4
COUNT = 40


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def a_prompt(first: int, count: int = COUNT) -> tuple[Blocks, PromptTokens]:
    ids = list(range(first, first + count))
    text = b"".join(b"%08d" % one for one in ids for _ in range(4))
    return hash_blocks(Prompt((text,), len(text), 0), model="m"), PromptTokens(token_bytes(ids))


def stored(tokens: PromptTokens, blocks: int | None = None, medium: str = "GPU") -> BlockStored:
    count = len(tokens) // SIZE if blocks is None else blocks
    ids = list(memoryview(tokens.ids).cast("I"))[: count * SIZE]
    names: list[int | bytes] = [b"%d" % block for block in tokens.chain(SIZE)[:count]]
    return BlockStored(names, None, ids, SIZE, medium=medium)


class Known:
    """An index over slots whose events come."""

    def __init__(self, *slots: int) -> None:
        self.clock = Clock()
        self.index = ExactIndex(self.clock)
        self.feeds: dict[int, Feed] = {slot: self.index.join(slot) for slot in slots}
        for feed in self.feeds.values():
            feed.forget(FeedState.WHOLE)

    def match(self, prompt: tuple[Blocks, PromptTokens | None], slots: int = 3) -> list[float]:
        return list(map(float, self.index.match(prompt[0], COUNT, slots, prompt[1])))

    def send(self, slot: int, prompt: tuple[Blocks, PromptTokens | None]) -> list[int]:
        return list(self.index.sent(slot, prompt[0].chains, prompt[1]))


def test_each_slot_by_what_is_known_of_it() -> None:
    known, prompt = Known(0, 1), a_prompt(1)
    known.send(2, prompt)  # nothing is heard of this one
    known.feeds[0].apply([stored(prompt[1], 6)], 1.0)
    assert known.match(prompt) == [24, 0, pytest.approx(COUNT, rel=0.3)]
    assert known.match((prompt[0], None))[0] == 0  # what its tokens are is unknown
    assert known.index.exact_slots() == {0, 1}
    assert known.index.block_sizes == [SIZE]


def test_what_was_sent_counts_to_the_block_until_its_events_come() -> None:
    known, prompt, other = Known(0, 1), a_prompt(1), a_prompt(1_000)
    known.feeds[0].apply([stored(prompt[1], 3)], 1.0)
    known.feeds[1].apply([stored(other[1], 1)], 1.0)
    first = known.send(0, prompt)
    known.send(1, other)
    assert known.match(prompt) == [COUNT - SIZE, 0, 0]
    ids = list(memoryview(prompt[1].ids).cast("I"))
    branch = PromptTokens(token_bytes([*ids[:18], *range(50, 70)]))
    assert known.match((a_prompt(7)[0], branch)) == [16, 0, 0]  # it goes another way from there
    shorter = PromptTokens(token_bytes(ids[:8]))
    assert known.match((a_prompt(7)[0], shorter)) == [4, 0, 0]
    known.send(0, prompt)
    known.index.take_back(0, prompt[0].chains, first)  # the other one is still to come
    assert known.match(prompt)[0] == COUNT - SIZE
    known.feeds[0].apply([stored(prompt[1], 5)], 1.0)
    assert known.match(prompt)[0] == COUNT - SIZE
    known.feeds[0].apply([stored(prompt[1])], 1.0)
    known.feeds[0].apply([BlockRemoved([b"%d" % prompt[1].chain(SIZE)[-3]], "GPU")], 1.0)
    assert known.match(prompt)[0] == COUNT - 3 * SIZE
    known.index.reset(1)
    assert not known.index._promises._ahead
    assert not known.index._promises._first
    assert not known.index._promises._to


def test_a_promise_is_not_believed_for_ever() -> None:
    known, prompt = Known(0), a_prompt(1)
    known.feeds[0].apply([stored(a_prompt(1_000)[1])], 1.0)
    known.send(0, prompt)
    known.clock.now_s += 9.0
    assert known.match(prompt)[0] == COUNT - SIZE
    known.clock.now_s += 2.0
    assert known.match(prompt)[0] == 0
    assert not known.index._promises._ahead


def test_the_last_token_is_computed_always() -> None:
    known, prompt = Known(0), a_prompt(1)
    known.feeds[0].apply([stored(prompt[1])], 1.0)
    assert known.match(prompt)[0] == COUNT - SIZE
    goes_on = PromptTokens(prompt[1].ids, ends=False)
    assert known.match((prompt[0], goes_on))[0] == COUNT


def test_slower_memory_counts_less() -> None:
    known, prompt = Known(0), a_prompt(1)
    whole = stored(prompt[1])
    known.feeds[0].apply([whole, stored(prompt[1], medium="CPU")], 1.0)
    known.feeds[0].apply([BlockRemoved(whole.block_hashes[2:])], 1.0)
    assert known.match(prompt)[0] == 8 + TIER_CREDIT[1] * (COUNT - SIZE - 8)


def test_a_prompt_is_promised_until_its_last_block_comes() -> None:
    known, prompt = Known(0), a_prompt(1)
    feed = known.feeds[0]
    feed.apply([stored(a_prompt(900)[1])], 1.0)
    known.send(0, prompt)
    assert known.match(prompt)[0] > COUNT / 2
    feed.apply([stored(prompt[1], 3)], 1.0)
    assert known.match(prompt)[0] > COUNT / 2
    feed.apply([stored(prompt[1])], 1.0)
    assert not feed.waiting
    feed.apply([AllBlocksCleared()], 1.0)
    assert known.match(prompt)[0] == 0


def test_a_promise_is_not_kept_for_ever_nor_for_a_request_that_failed() -> None:
    known, prompt = Known(0), a_prompt(1)
    known.feeds[0].apply([stored(a_prompt(900)[1])], 1.0)
    added = known.send(0, prompt)
    known.index.take_back(0, prompt[0].chains, added)
    assert known.match(prompt)[0] == 0
    known.send(0, prompt)
    known.send(0, (prompt[0], None))  # of another picker
    known.clock.now_s += 5
    assert known.match(prompt)[0] > 0
    known.clock.now_s += 6
    assert known.match(prompt)[0] == 0
    assert not known.feeds[0].waiting


def test_of_a_part_of_the_events_the_more_hopeful_knowledge_counts() -> None:
    known, prompt = Known(0), a_prompt(1)
    known.send(0, prompt)
    known.clock.now_s += 60
    known.feeds[0].forget(FeedState.PARTIAL)
    known.feeds[0].apply([stored(prompt[1], 2)], 1.0)
    assert known.match(prompt)[0] > COUNT / 2


def test_an_engine_that_works_without_events_is_doubted_until_they_come() -> None:
    known, prompt = Known(0), a_prompt(1)
    feed = known.feeds[0]
    feed.apply([stored(prompt[1])], 50.0)
    for cached, exact in ((COUNT - SIZE, True), (0, False)):
        known.index.answered(0, prompt[0].chains, Reuse(COUNT, cached, 5, 0.0, 90.0))
        known.clock.now_s += 1
        known.index.tick()
        assert (known.index.exact_slots() == {0}) is exact
    assert known.index.missing_slots() == {0}
    feed.apply([stored(prompt[1])], 200.0)
    assert known.index.exact_slots() == {0}


def test_ranks_behind_one_address_and_an_endpoint_that_goes() -> None:
    known, prompt = Known(0, 2), a_prompt(1)
    other = known.index.join(2)
    other.forget(FeedState.WHOLE)
    known.feeds[2].apply([stored(prompt[1], 2)], 1.0)
    other.apply([stored(prompt[1], 5)], 1.0)
    assert known.match(prompt) == [0, 0, 20]
    known.index.part(other)
    assert known.match(prompt) == [0, 0, 8]
    known.index.reset(2)
    assert known.index.exact_slots() == {0}
    for feed in known.feeds.values():
        known.index.part(feed)
    known.send(0, prompt)
    for _ in range(10):
        known.index.tick()
    assert len(known.index.held) == 0
    assert known.match(prompt)[0] > COUNT / 2


def test_replicas_with_blocks_of_two_sizes() -> None:
    known, prompt = Known(0, 1), a_prompt(1)
    known.feeds[0].apply([stored(prompt[1])], 1.0)
    ids = list(memoryview(prompt[1].ids).cast("I"))[:32]
    known.feeds[1].apply([BlockStored([1, 2, 3, 4], None, ids, 8)], 1.0)
    assert known.match(prompt) == [36, 32, 0]


def test_another_engine_may_come_back_at_an_address() -> None:
    known, prompt = Known(0), a_prompt(1)
    feed = known.feeds[0]
    feed.apply([stored(prompt[1])], 1.0)
    feed.forget(FeedState.SILENT)
    feed.forget(FeedState.WHOLE)
    ids = list(memoryview(prompt[1].ids).cast("I"))[:32]
    feed.apply([BlockStored([1, 2, 3, 4], None, ids, 8, group_idx=1)], 2.0)
    assert known.index.block_sizes == [8]
    assert known.match(prompt) == [32, 0, 0]


def test_a_failed_request_takes_back_its_own_promise_only() -> None:
    known, prompt, other = Known(0), a_prompt(1), a_prompt(500)
    known.feeds[0].apply([stored(a_prompt(900)[1])], 1.0)
    added = known.send(0, prompt)
    known.send(0, other)
    known.send(0, prompt)
    for believed in (True, False, False):
        known.index.take_back(0, prompt[0].chains, added)
        assert (known.match(prompt)[0] > 0) is believed
        assert known.match(other)[0] > 0


def test_answers_take_room_and_what_was_not_there_makes_the_cache_smaller() -> None:
    index = ExactIndex(Clock()).approximate
    prompts = [a_prompt(1_000 * n, 200)[0].chains for n in range(1, 12)]
    index.set_capacity(0, 60_000, 1.0)
    for chains in prompts[:4]:
        index.sent(0, chains)
    held = index.held_bytes(0)
    index.answered(0, prompts[0], Reuse(200, 200, 200, 200.0, 0.0))
    index.answered(0, prompts[0], Reuse(200, None, 100, 200.0, 0.0))
    assert index.held_bytes(0) > held + 1_000
    for _ in range(40):
        index.answered(0, prompts[3], Reuse(200, 0, 1, 200.0, 0.0))
    assert index.held_bytes(0) < held
    for chains in prompts:
        index.sent(0, chains)
    index.reset(0)
    assert index.held_bytes(0) == 0
    assert len(index) == 0


def test_blocks_of_an_adapter_without_a_name_are_nobodys() -> None:
    known, prompt = Known(0), a_prompt(1)
    event = stored(prompt[1])
    event.lora_id = 3
    known.feeds[0].apply([event], 1.0)
    assert known.match(prompt)[0] == 0
    assert known.feeds[0].orphans == len(event.block_hashes)
