import pytest

from loadtests.sim.blocks import BlockPool, OutOfBlocksError


def filled(pool: BlockPool, hashes: list[int]) -> list[int]:
    blocks = pool.take_fresh(len(hashes))
    for block, block_hash in zip(blocks, hashes, strict=True):
        pool.publish(block, block_hash)
    return blocks


def test_a_freed_prefix_is_found_until_its_blocks_are_needed() -> None:
    pool = BlockPool(4)
    pool.release(filled(pool, [1, 2, 3]))
    assert pool.used_blocks == 0
    assert len(pool.match([1, 2, 3, 4])) == 3
    assert pool.match([9, 2, 3]) == []
    pool.take_fresh(2)  # the unused fourth block and the end of the prefix
    assert len(pool.match([1, 2, 3])) == 2


def test_the_prefix_freed_first_goes_first() -> None:
    pool = BlockPool(4)
    old, young = filled(pool, [1, 2]), filled(pool, [11, 12])
    pool.release(old)
    pool.release(young)
    pool.take_fresh(2)
    assert pool.match([1]) == []
    assert len(pool.match([11, 12])) == 2


def test_shared_blocks_are_freed_by_their_last_user() -> None:
    pool = BlockPool(2)
    blocks = filled(pool, [1, 2])
    pool.take_cached(blocks)
    pool.release(blocks)
    assert pool.used_blocks == 2
    pool.release(blocks)
    assert pool.free_blocks == 2


def test_taking_a_free_cached_block_costs_a_free_block() -> None:
    pool = BlockPool(2)
    pool.release(filled(pool, [1]))
    cached = pool.match([1])
    assert pool.can_take(cached, 1)
    assert not pool.can_take(cached, 2)


def test_more_than_there_are_is_refused_whole() -> None:
    pool = BlockPool(2)
    with pytest.raises(OutOfBlocksError, match="3 KV blocks wanted, 2 free"):
        pool.take_fresh(3)
    assert pool.free_blocks == 2


def test_forgetting_spares_what_is_in_use() -> None:
    pool = BlockPool(4)
    filled(pool, [1])
    pool.release(filled(pool, [2]))
    pool.forget_free()
    assert len(pool.match([1])) == 1
    assert pool.match([2]) == []
