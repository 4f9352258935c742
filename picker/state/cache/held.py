"""Which engine holds which blocks, exactly: the compact index that KV events feed.

Per block and holder about 48 bytes: an entry of the holder's table, from the engine's own hash to
the block, and (once for all holders) an entry of the table of blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np

from picker.state.cache.holders import MOST_HOLDERS, NOBODY, TIERS, HolderSets
from picker.state.cache.table import Hashes, HashTable
from policies.routing.types import Floats

_STEPS: Final = (96, 1024)
"""A prompt is looked up in so many blocks first, then in so many: most prompts end early."""
_SWEPT_AT_ONCE: Final = 512


class Holder:
    """What one engine holds. Its keys are hashes of 60 bits of whatever the engine calls its
    blocks, one for each block and tier."""

    __slots__ = ("minus", "number", "plus", "table", "twins")

    def __init__(self, number: int, sets: HolderSets) -> None:
        self.number = number
        self.table = HashTable()
        """From the engine's key to the entry of the block in the table of blocks."""
        self.twins: dict[int, int] = {}
        """Keys that the engine holds several times, and how many times more than once."""
        self.plus = [sets.plus(number, tier) for tier in range(TIERS)]
        self.minus = [sets.minus(number, tier) for tier in range(TIERS)]

    def __len__(self) -> int:
        """Blocks that it holds, in all tiers."""
        return len(self.table)


class HeldBlocks:
    """From hashes of blocks (`picker.prompt.token_blocks`) to their holders."""

    def __init__(self) -> None:
        self._blocks = HashTable()
        """From a block's hash to the number of the set of its holders."""
        self._sets = HolderSets()
        self._numbers = 0
        self._free: list[int] = []
        self._leaving: deque[Holder] = deque()
        self._tiers_used = 1

    def __len__(self) -> int:
        """Different blocks."""
        return len(self._blocks)

    @property
    def holders(self) -> int:
        """Numbers of holders are below this."""
        return self._numbers

    def join(self) -> Holder:
        """A new holder, of nothing. Raises OverflowError when there are too many."""
        while self._leaving and not self._free and self._numbers >= MOST_HOLDERS:
            self.tidy()
        if self._free:
            number = self._free.pop()
        elif self._numbers >= MOST_HOLDERS:
            raise OverflowError(f"more than {MOST_HOLDERS} engines in a pool publish KV events")
        else:
            number, self._numbers = self._numbers, self._numbers + 1
        return Holder(number, self._sets)

    def leave(self, holder: Holder) -> None:
        """It holds nothing any more, and must not be used again. Its blocks are forgotten little by
        little; until then its number stands in matches."""
        if holder.table.length:
            self._leaving.append(holder)
        else:
            self._free_number(holder)

    def hash_of(self, holder: Holder, key: int) -> int | None:
        """The hash of the block that a holder's engine calls so; None: it does not hold it."""
        entry = holder.table.find(key)
        return self._blocks.keys[holder.table.values[entry]] if entry else None

    def holds(self, holder: Holder, block: Hashes) -> bool:
        """Whether a holder has one block, in any tier."""
        numbers = self._set_numbers(block)
        masks = self._sets.within[-1]
        return bool(numbers.size) and bool(masks[int(numbers[0])] >> holder.number & 1)

    def stored(
        self, holder: Holder, keys: Sequence[int], hashes: Sequence[int], tier: int = 0
    ) -> None:
        """The holder's engine has these blocks now, once more if it had them."""
        table, twins = holder.table, holder.twins
        known, before = table.values, len(table)
        entries = table.put(keys)
        if len(table) - before < len(keys):
            fresh: list[tuple[int, int]] = []
            for key, entry, block in zip(keys, entries, hashes, strict=True):
                if known[entry]:
                    twins[key] = twins.get(key, 0) + 1
                else:
                    known[entry] = 1  # taken: it may come twice here
                    fresh.append((entry, block))
            entries, hashes = [entry for entry, _ in fresh], [block for _, block in fresh]
        sets, plus = self._blocks.values, holder.plus[tier]
        for entry, block in zip(entries, self._blocks.put(hashes), strict=True):
            known[entry] = block
            old = sets[block]
            new = plus.get(old)
            if new is None:
                new = self._sets.with_member(old, holder.number, tier)
            sets[block] = new
        self._tiers_used = max(self._tiers_used, tier + 1)
        if self._leaving or self._sets.sweep_due:
            self.tidy()

    def removed(self, holder: Holder, keys: Sequence[int], tier: int = 0) -> int:
        """The holder's engine has each of these blocks once less. Returns how many of them it did
        not have."""
        count, twins = len(keys), holder.twins
        if twins:
            keys = [key for key in keys if not (key in twins and _one_less(twins, key))]
            count = len(keys)
        blocks = holder.table.take(keys)
        sets, names, minus = self._blocks.values, self._blocks.keys, holder.minus[tier]
        gone: list[int] = []
        for block in blocks:
            old = sets[block]
            new = minus.get(old)
            if new is None:
                new = self._sets.without_member(old, holder.number, tier)
            sets[block] = new
            if new == NOBODY:
                gone.append(names[block])
        if gone:
            self._blocks.take(gone)
        return count - len(blocks)

    def tidy(self) -> None:
        """Go on forgetting what those that left held; a bounded amount of work."""
        if self._leaving:
            holder = self._leaving[0]
            if holder.table.length:
                self._forget_some(holder)
            if not holder.table.length:
                self._free_number(self._leaving.popleft())
        if self._sets.sweep_due:
            self._sets.sweep(np.frombuffer(self._blocks.values, np.uint32))

    def match(self, chain: Hashes) -> list[Floats]:
        """By tier, then by number of a holder: blocks of the longest prefix of the chain of which
        the holder has every block in this tier or a faster one. Tiers that nobody uses are left
        out."""
        numbers = self._set_numbers(chain)
        if not numbers.size:
            return [np.zeros(self._numbers) for _ in range(self._tiers_used)]
        changes = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        starts = [0, *changes.tolist()]
        runs = list(zip(starts, numbers[starts].tolist(), strict=True))
        return [
            _longest(runs, numbers.size, self._sets.within[tier], self._numbers)
            for tier in range(self._tiers_used)
        ]

    @property
    def size_bytes(self) -> int:
        """Memory of the table of blocks."""
        return self._blocks.size_bytes

    def _set_numbers(self, chain: Hashes) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        """Of the sets of holders of the chain's first blocks, as far as anybody has them."""
        found: list[np.ndarray[tuple[int], np.dtype[np.uint32]]] = []
        at = 0
        for step in (*_STEPS, chain.size):
            part = chain[at : at + step]
            if not part.size:
                break
            entries = self._blocks.find_all(part)
            missing = np.flatnonzero(entries == 0)
            if missing.size:
                entries = entries[: missing[0]]
            found.append(np.frombuffer(self._blocks.values, np.uint32)[entries])
            if missing.size:
                break
            at += step
        return np.concatenate(found) if found else np.empty(0, np.uint32)

    def _free_number(self, holder: Holder) -> None:
        self._sets.forget(holder.number)
        self._free.append(holder.number)

    def _forget_some(self, holder: Holder) -> None:
        sets, names = self._blocks.values, self._blocks.keys
        gone: list[int] = []
        for block in holder.table.drain(_SWEPT_AT_ONCE):
            if sets[block] == NOBODY:
                continue  # it had it in several tiers
            sets[block] = self._sets.without_holder(sets[block], holder.number)
            if sets[block] == NOBODY:
                gone.append(names[block])
        self._blocks.take(gone)


def _one_less(twins: dict[int, int], key: int) -> bool:
    if twins[key] > 1:
        twins[key] -= 1
    else:
        del twins[key]
    return True


def _longest(
    runs: Sequence[tuple[int, int]], length: int, masks: Sequence[int], holders: int
) -> Floats:
    matched = np.zeros(holders)
    alive = -1
    for start, number in runs:
        kept = alive & masks[number]
        if kept != alive:
            if start:
                credit(matched, alive ^ kept, start)
            if not kept:
                return matched
            alive = kept
    credit(matched, alive, length)
    return matched


def credit(matched: Floats, numbers: int, value: float) -> None:
    """``matched[number] += value`` for each number of a bitmask."""
    if numbers & (numbers - 1) == 0:
        number = numbers.bit_length() - 1
        if number < matched.size:
            matched[number] += value
        return
    bits = np.frombuffer(numbers.to_bytes((numbers.bit_length() + 7) // 8, "little"), np.uint8)
    flags = np.unpackbits(bits, bitorder="little", count=min(matched.size, bits.size * 8))
    matched[: flags.size] += flags * float(value)
