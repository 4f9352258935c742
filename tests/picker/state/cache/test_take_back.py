"""What a failed request alone has left in the prefix index is taken out again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from picker.prompt.blocks import block_ends
from picker.state.cache.approximate import ApproximateIndex

CHAINS = st.lists(
    st.lists(st.integers(0, 1), max_size=4).map(
        lambda path: [hash(tuple(path[: n + 1])) & (2**60 - 1) for n in range(len(path))]
    ),
    max_size=20,
)

ALIKE = CHAINS.map(lambda chains: [chain for chain in chains if len(chain) == 3])
"""None goes on from another one, but many are the same or begin alike."""


def held(index: ApproximateIndex, chain: list[int]) -> float:
    return float(index.matched_bytes([chain], 2)[1])


def full(chain: list[int]) -> float:
    return float(block_ends(len(chain))[len(chain)])


def test_a_prompt_that_failed_leaves_nothing_and_what_it_went_on_from_stays() -> None:
    index = ApproximateIndex()
    index.sent(1, [[1, 2]])
    added = index.sent(1, [[1, 2, 3, 4], [9]])
    assert list(added) == [2, 1]
    index.take_back(1, [[1, 2, 3, 4], [9]], added)
    assert held(index, [1, 2, 3, 4]) == full([1, 2])
    assert held(index, [9]) == 0
    assert index.held_bytes(1) == full([1, 2])
    index.take_back(1, [[1, 2, 3, 4], [9]], added)
    assert index.held_bytes(1) == full([1, 2])


def test_a_prompt_that_several_requests_sent_goes_when_all_of_them_have_failed() -> None:
    index = ApproximateIndex()
    chain = [1, 2, 3]
    first, again = index.sent(1, [chain]), index.sent(1, [chain])
    index.take_back(1, [chain], first)
    assert held(index, chain) == full(chain), "the second one may still be served"
    index.take_back(1, [chain], again)
    assert len(index) == 0
    index.sent(1, [chain])  # and this one is served
    index.take_back(1, [chain], index.sent(1, [chain]))
    assert held(index, chain) == full(chain)


@given(CHAINS)
def test_in_the_opposite_order_everything_is_undone(chains: list[list[int]]) -> None:
    index = ApproximateIndex()
    kept = []
    for chain in chains:
        before = (index.held_bytes(1), len(index))
        kept.append((chain, index.sent(1, [chain]), before))
    for chain, added, before in reversed(kept):
        index.take_back(1, [chain], added)
        assert (index.held_bytes(1), len(index)) == before


@given(ALIKE, st.randoms(use_true_random=False))
def test_nothing_is_lost_that_a_request_which_was_served_has_sent(
    chains: list[list[int]], order: random.Random
) -> None:
    index = ApproximateIndex()
    sent = [(chain, index.sent(1, [chain])) for chain in chains]
    failed = [one for number, one in enumerate(sent) if number % 2]
    order.shuffle(failed)
    for chain, added in failed:
        index.take_back(1, [chain], added)
    for chain in chains[::2]:
        assert held(index, chain) == full(chain)
    if chains:
        assert len(index) == len(index._held[1].parents)
    assert index.held_bytes(1) >= 0
    index.set_capacity(1, 1, 1.0)  # what is left can be dropped like anything else
    assert len(index) == 0
