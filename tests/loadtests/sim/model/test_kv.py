from collections.abc import Sequence

import pytest

from loadtests.sim.model.kv import BlockPool, OutOfBlocksError


class Heard:
    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def stored(self, block_ids: Sequence[int], parent_id: int | None) -> None:
        self.told += [("stored", block_id) for block_id in block_ids]

    def removed(self, block_id: int) -> None:
        self.told.append(("removed", block_id))

    def cleared(self) -> None:
        self.told.append(("cleared", 0))

    def stepped(self) -> None:
        self.told.append(("stepped", 0))


def filled(pool: BlockPool, ids: list[int]) -> list[int]:
    blocks = pool.take_fresh(len(ids))
    pool.publish(blocks, ids, None)
    return blocks


def test_a_freed_prefix_is_found_until_its_blocks_are_needed() -> None:
    pool = BlockPool(4)
    pool.release(filled(pool, [1, 2, 3]))
    assert pool.used_blocks == 0
    assert len(pool.match([1, 2, 3, 4])) == 3
    assert pool.match([9, 2, 3]) == []
    pool.take_fresh(2)  # the unused fourth block and the end of the prefix
    assert len(pool.match([1, 2, 3])) == 2


def test_the_prefix_freed_first_goes_first_and_a_hit_makes_it_young() -> None:
    pool = BlockPool(4)
    old, young = filled(pool, [1, 2]), filled(pool, [11, 12])
    pool.release(old)
    pool.release(young)
    found = pool.match([1, 2])
    pool.take_cached(found)
    pool.release(found)
    pool.take_fresh(2)
    assert pool.match([11]) == []
    assert len(pool.match([1, 2])) == 2


def test_a_block_without_content_goes_before_any_with() -> None:
    pool = BlockPool(3)
    cached = filled(pool, [1])
    blank = pool.take_fresh(2)
    pool.release(cached)
    pool.release(blank)
    assert set(pool.take_fresh(2)) == set(blank)
    assert len(pool.match([1])) == 1


def test_a_shared_block_is_free_only_when_nobody_refers_to_it() -> None:
    pool = BlockPool(2)
    first = filled(pool, [1])
    pool.take_cached(pool.match([1]))
    pool.release(first)
    assert pool.free_blocks == 1
    assert not pool.can_take([], 2)
    with pytest.raises(OutOfBlocksError):
        pool.take_fresh(2)


def test_a_cached_block_counts_against_the_free_ones_when_it_is_revived() -> None:
    pool = BlockPool(3)
    pool.release(filled(pool, [1, 2]))
    assert pool.can_take(pool.match([1, 2]), 1)
    assert not pool.can_take(pool.match([1, 2]), 2)


def test_twins_keep_an_id_findable_until_the_last_is_gone() -> None:
    heard = Heard()
    pool = BlockPool(2, listener=heard)
    one, two = filled(pool, [7]), filled(pool, [7])
    pool.release(one)
    assert pool.take_fresh(1) == one
    assert pool.match([7]) == two
    pool.release(two)
    pool.take_fresh(1)
    assert pool.match([7]) == []
    assert heard.told == [("stored", 7), ("stored", 7), ("removed", 7), ("removed", 7)]


def test_content_is_dropped_only_when_no_block_is_in_use() -> None:
    heard = Heard()
    pool = BlockPool(4, listener=heard)
    kept = filled(pool, [1])
    pool.release(filled(pool, [2, 3]))
    assert not pool.forget_free()
    assert len(pool.match([2, 3])) == 2
    pool.release(kept)
    assert pool.forget_free()
    assert pool.match([1]) == pool.match([2]) == []
    assert heard.told[3:] == [("cleared", 0)]


def test_without_caching_nothing_is_found() -> None:
    pool = BlockPool(2, caching=False)
    pool.release(filled(pool, [1]))
    assert pool.match([1]) == []
