"""Which engine holds which blocks: examples, then any events against a dictionary of sets."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker.state.cache.feed import Feed, FeedState
from picker.state.cache.held import HeldBlocks, Holder
from picker.state.cache.holders import MOST_HOLDERS
from picker.state.cache.table import Hashes, HashTable


def hashes(*numbers: int) -> Hashes:
    return np.array(numbers, np.uint64)


def matched(held: HeldBlocks, holder: Holder, chain: Hashes, tier: int = 0) -> int:
    return int(held.match(chain)[tier][holder.number])


def test_the_longest_contiguous_prefix_by_holder() -> None:
    held = HeldBlocks()
    one, two = held.join(), held.join()
    held.stored(one, [11, 12, 13], [101, 102, 103])
    held.stored(two, [21, 23], [101, 103])
    chain = hashes(101, 102, 103, 104)
    assert held.match(chain)[0].tolist() == [3, 1]
    held.removed(one, [12])
    assert held.match(chain)[0].tolist() == [1, 1]
    assert held.match(hashes(5))[0].tolist() == [0, 0]
    assert held.match(hashes())[0].tolist() == [0, 0]


def test_engines_that_begin_anew_take_no_more_room_for_holders() -> None:
    held = HeldBlocks()
    feeds = [Feed(held, lambda: None) for _ in range(MOST_HOLDERS)]
    with pytest.raises(OverflowError):
        Feed(held, lambda: None)
    for again in range(3):
        for feed in feeds[-100:]:
            feed.hold([11, 12], [101, 102])
            feed.forget(FeedState.WHOLE)
        assert held.holders == MOST_HOLDERS, again
    feeds[-1].hold([11], [101])
    assert np.flatnonzero(held.match(hashes(101))[0]).tolist() == [feeds[-1].holder.number]


def test_an_engine_that_removes_nothing_does_not_grow_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("picker.state.cache.feed._MOST_BLOCKS", 100)
    held = HeldBlocks()
    feed = Feed(held, lambda: None)
    feed.forget(FeedState.WHOLE)
    for block in range(1_000):
        feed.hold([block], [block])
        assert len(feed.holder) <= 100
    assert feed.state is FeedState.PARTIAL
    assert len(held) <= 200


def test_a_block_that_is_there_twice_is_removed_twice() -> None:
    held = HeldBlocks()
    one = held.join()
    held.stored(one, [11, 11], [101, 101])
    held.stored(one, [11], [101])
    for left in (1, 1, 0):
        assert held.removed(one, [11]) == 0
        assert matched(held, one, hashes(101)) == left
    assert held.removed(one, [11]) == 1
    held.stored(one, [11, 11], [101, 101])
    assert held.removed(one, [11, 11, 11]) == 1
    assert len(held) == 0


def test_a_slower_tier_goes_on_where_the_faster_one_ends() -> None:
    held = HeldBlocks()
    one, two = held.join(), held.join()
    held.stored(one, [11, 12], [101, 102])
    held.stored(one, [912, 913], [102, 103], tier=1)
    held.stored(two, [21], [101])
    chain = hashes(101, 102, 103, 104)
    assert [level.tolist() for level in held.match(chain)] == [[2, 1], [3, 1]]
    held.removed(one, [12])
    assert [level.tolist() for level in held.match(chain)] == [[1, 1], [3, 1]]
    held.removed(one, [912], tier=1)
    assert [level.tolist() for level in held.match(chain)] == [[1, 1], [1, 1]]


def test_who_leaves_is_forgotten_and_its_number_is_given_again() -> None:
    held = HeldBlocks()
    gone, stays = held.join(), held.join()
    keys = list(range(1, 5_001))
    for holder in (gone, stays):
        held.stored(holder, keys, keys)
    held.stored(gone, [10_000], [keys[0]], tier=2)
    held.leave(gone)
    for _ in range(100):
        held.tidy()
    assert held.join().number == gone.number
    assert held.match(np.array(keys, np.uint64))[0].tolist() == [0, 5_000]
    held.leave(stays)
    for _ in range(100):
        held.tidy()
    assert len(held) == 0


def test_sets_that_no_longer_occur_are_forgotten() -> None:
    held, rng = HeldBlocks(), random.Random(1)
    holders = [held.join() for _ in range(24)]
    truth: dict[int, set[int]] = {}
    for turn in range(400):
        for block in range(1, 40):
            holder = rng.choice(holders)
            holding = truth.setdefault(block, set())
            if holder.number in holding:
                held.removed(holder, [block])
                holding.discard(holder.number)
            else:
                held.stored(holder, [block], [block])
                holding.add(holder.number)
        if turn % 50 == 0:
            for block, holding in truth.items():
                level = held.match(hashes(block))[0]
                assert set(np.flatnonzero(level).tolist()) == holding
    assert len(held._sets) < 10_000


def test_a_table_with_any_number_of_entries_finds_each() -> None:
    rng, table, truth = random.Random(3), HashTable(), dict[int, int]()
    for _ in range(60):
        keys = [rng.getrandbits(60) for _ in range(rng.randrange(80))]
        for key, entry in zip(keys, table.put(keys), strict=True):
            truth[key] = table.values[entry] = rng.getrandbits(32)
        gone = rng.sample(sorted(truth), len(truth) // 3)
        assert table.take([*gone, 5]) == [truth.pop(key) for key in gone]
        assert len(table) == len(truth)
        known = np.array([*truth, 7, 0], np.uint64)
        entries = table.find_all(known).tolist()
        assert [table.values[entry] for entry in entries[:-2]] == list(truth.values())
        assert entries[-2:] == [0, 0]
        assert [table.find(key) for key in truth] == entries[:-2]
    drained: list[int] = []
    while len(table):
        drained += table.drain(10)
    assert sorted(drained) == sorted(truth.values())


class HeldMachine(RuleBasedStateMachine):
    """Against counters of what each engine holds, looked through one by one."""

    HOLDERS = 4
    holders = st.integers(0, HOLDERS - 1)
    tiers = st.integers(0, 2)
    blocks = st.lists(st.integers(1, 12), max_size=8)

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldBlocks()
        self.holder = [self.held.join() for _ in range(self.HOLDERS)]
        self.truth = [[Counter[int]() for _ in range(3)] for _ in range(self.HOLDERS)]

    @rule(one=holders, tier=tiers, blocks=blocks)
    def store(self, one: int, tier: int, blocks: list[int]) -> None:
        keys = [100 * (one + 1) + 20 * tier + block for block in blocks]
        self.held.stored(self.holder[one], keys, [1 << block for block in blocks], tier)
        self.truth[one][tier].update(blocks)
        for block, key in zip(blocks, keys, strict=True):
            assert self.held.hash_of(self.holder[one], key) == 1 << block

    @rule(one=holders, tier=tiers, blocks=blocks)
    def remove(self, one: int, tier: int, blocks: list[int]) -> None:
        keys = [100 * (one + 1) + 20 * tier + block for block in blocks]
        had = self.truth[one][tier]
        unknown = (Counter(blocks) - had).total()
        assert self.held.removed(self.holder[one], keys, tier) == unknown
        self.truth[one][tier] = had - Counter(blocks)

    @rule(one=holders)
    def leave(self, one: int) -> None:
        self.held.leave(self.holder[one])
        self.holder[one] = self.held.join()
        self.truth[one] = [Counter() for _ in range(3)]

    @rule()
    def tidy(self) -> None:
        self.held.tidy()

    @invariant()
    def every_prefix_is_as_long_as_it_is(self) -> None:
        for chain in ([1, 2, 3, 4, 5, 6], [3, 1, 12], [7]):
            levels = self.held.match(np.array([1 << block for block in chain], np.uint64))
            for one, truth in enumerate(self.truth):
                known: set[int] = set()
                for tier, level in enumerate(levels):
                    known |= set(truth[tier])
                    depth = next((n for n, b in enumerate(chain) if b not in known), len(chain))
                    assert level[self.holder[one].number] == depth


TestHeldBlocks = HeldMachine.TestCase
