"""The prefix index: examples, then any traffic against a naive model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker.prompt.blocks import block_ends, hash_blocks
from picker.prompt.forms import Prompt
from picker.state.cache.approximate import ApproximateIndex


def chain_of(text: bytes) -> list[int]:
    return hash_blocks(Prompt((text,), len(text), 0), model="m").chains[0]


SYSTEM, FIRST, OTHER = b"s" * 1_024, b"f" * 1_024, b"o" * 1_024


def test_the_longest_contiguous_prefix_by_slot() -> None:
    index = ApproximateIndex()
    index.sent(0, [chain_of(SYSTEM + FIRST)])
    index.sent(2, [chain_of(SYSTEM)])
    assert index.matched_bytes([chain_of(SYSTEM + FIRST + OTHER)], 4).tolist() == [
        2_048,
        0,
        1_024,
        0,
    ]
    assert index.matched_bytes([chain_of(SYSTEM + OTHER)], 4).tolist() == [1_024, 0, 1_024, 0]
    assert index.matched_bytes([chain_of(OTHER + FIRST)], 4).tolist() == [0, 0, 0, 0]
    assert index.matched_bytes([[]], 4).tolist() == [0, 0, 0, 0]


def test_several_sequences_add_up() -> None:
    index = ApproximateIndex()
    one, two = chain_of(SYSTEM), chain_of(OTHER)
    index.sent(1, [one, two])
    assert index.matched_bytes([one, two], 2).tolist() == [0, 2_048]
    assert index.held_bytes(1) == 2_048


def test_a_slot_holds_no_more_than_its_engine_and_drops_the_oldest_leaves_first() -> None:
    index = ApproximateIndex()
    index.set_capacity(0, 4_096, 1.0)
    index.sent(0, [chain_of(SYSTEM + FIRST)])
    index.sent(0, [chain_of(SYSTEM + OTHER)])
    index.sent(0, [chain_of(b"n" * 1_024)])
    assert index.held_bytes(0) == 4_096
    index.sent(0, [chain_of(b"t" * 256)])
    assert index.held_bytes(0) <= 4_096
    assert index.matched_bytes([chain_of(SYSTEM + FIRST)], 1)[0] == 2_048 - 512, "the deepest went"
    assert index.matched_bytes([chain_of(SYSTEM + OTHER)], 1)[0] == 2_048


def test_a_prompt_longer_than_the_capacity_keeps_its_beginning() -> None:
    index = ApproximateIndex()
    index.set_capacity(0, 1_000, 1.0)
    index.sent(0, [chain_of(b"x" * 4_000)])
    assert index.matched_bytes([chain_of(b"x" * 4_000)], 1)[0] == 768


def test_capacity_can_shrink_grow_and_be_unknown() -> None:
    index = ApproximateIndex(default_capacity_bytes=2_048)
    index.sent(0, [chain_of(SYSTEM + FIRST)])
    index.set_capacity(0, 512, 1.0)
    assert index.held_bytes(0) <= 512
    index.set_capacity(0, 0, 1.0)
    index.sent(0, [chain_of(SYSTEM + FIRST)])
    assert index.held_bytes(0) == 2_048


def test_a_cleared_slot_holds_nothing_and_the_others_all() -> None:
    index = ApproximateIndex()
    index.set_capacity(0, 512, 1.0)
    for slot in (0, 1):
        index.sent(slot, [chain_of(SYSTEM)])
    index.reset(0)
    index.reset(9)
    assert index.matched_bytes([chain_of(SYSTEM)], 2).tolist() == [0, 1_024]
    assert index.held_bytes(0) == 0
    index.reset(1)
    assert len(index) == 0
    index.sent(0, [chain_of(SYSTEM)])
    assert index.held_bytes(0) == 1_024, "the capacity was that of the endpoint before"


def test_a_hundred_slots_and_more_than_the_caller_knows() -> None:
    index = ApproximateIndex()
    chain = chain_of(SYSTEM)
    for slot in range(0, 130, 3):
        index.sent(slot, [chain[: 1 + slot % 4]])
    matched = index.matched_bytes([chain], 100)
    assert matched.shape == (100,)
    for slot in range(100):
        assert matched[slot] == (0 if slot % 3 else 256 * (1 + slot % 4))


class PrefixMachine(RuleBasedStateMachine):
    """Against lists in order of use, searched one by one."""

    SLOTS = 5
    CAPACITY = 4_096

    def __init__(self) -> None:
        super().__init__()
        self.index = ApproximateIndex(default_capacity_bytes=self.CAPACITY)
        self.used: list[list[int]] = [[] for _ in range(self.SLOTS)]
        self.capacity = [self.CAPACITY] * self.SLOTS
        self.bytes_of: dict[int, int] = {}

    chains = st.lists(st.integers(0, 2), max_size=10).map(
        # A block stands for all before it, as chained hashes do.
        lambda path: [hash(tuple(path[: n + 1])) & (2**60 - 1) for n in range(len(path))]
    )
    slots = st.integers(0, SLOTS - 1)

    def _trim(self, slot: int) -> None:
        used, capacity = self.used[slot], self.capacity[slot]
        held = sum(self.bytes_of[block] for block in used)
        if held > capacity:
            while held > capacity - capacity // 32:
                held -= self.bytes_of[used.pop(0)]

    @rule(slot=slots, chain=chains)
    def insert(self, slot: int, chain: list[int]) -> None:
        self.index.sent(slot, [chain])
        ends = block_ends(len(chain))
        for depth in reversed(range(len(chain))):
            block = chain[depth]
            self.bytes_of[block] = ends[depth + 1] - ends[depth]
            if block in self.used[slot]:
                self.used[slot].remove(block)
            self.used[slot].append(block)
        self._trim(slot)

    @rule(slot=slots)
    def clear(self, slot: int) -> None:
        self.index.reset(slot)
        self.used[slot].clear()
        self.capacity[slot] = self.CAPACITY

    @rule(slot=slots, capacity=st.integers(200, 6_000))
    def set_capacity(self, slot: int, capacity: int) -> None:
        self.index.set_capacity(slot, capacity, 1.0)
        self.capacity[slot] = capacity
        self._trim(slot)

    @rule(chain=chains)
    def match(self, chain: list[int]) -> None:
        ends = block_ends(len(chain))
        expected = []
        for used in self.used:
            depth = 0
            while depth < len(chain) and chain[depth] in used:
                depth += 1
            expected.append(ends[depth])
        assert self.index.matched_bytes([chain], self.SLOTS).tolist() == expected

    @invariant()
    def bytes_are_counted_and_bounded(self) -> None:
        for slot, used in enumerate(self.used):
            held = sum(self.bytes_of[block] for block in used)
            assert self.index.held_bytes(slot) == held <= self.capacity[slot]
        assert len(self.index) == len(set().union(*map(set, self.used)))


TestPrefixMachine = PrefixMachine.TestCase
