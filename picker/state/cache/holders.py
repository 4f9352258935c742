"""Sets of holders of a block, as small numbers: neighbours in a chain are held by the same ones."""

from __future__ import annotations

from typing import Final

import numpy as np

from picker.state.cache.table import Entries

NOBODY: Final = 0
"""Number of the empty set."""
TIERS: Final = 3
MOST_HOLDERS: Final = 4096
_LOW: Final = (1 << MOST_HOLDERS) - 1
_SWEEP_AT: Final = 4096


class HolderSets:
    """Each set that occurs has a number; members are pairs of a holder and the tier of memory that
    it holds a block in, 0 the fastest."""

    def __init__(self) -> None:
        self.within: tuple[list[int], ...] = tuple([0] for _ in range(TIERS))
        """By tier, then by number of a set: bitmask of holders that have it there or faster."""
        self._members = [0]
        self._number = {0: NOBODY}
        self._free: list[int] = []
        self._plus: dict[int, dict[int, int]] = {}
        self._minus: dict[int, dict[int, int]] = {}
        self._sweep_at = _SWEEP_AT

    def __len__(self) -> int:
        return len(self._number)

    def plus(self, holder: int, tier: int) -> dict[int, int]:
        """By number of a set, as far as known: the number of the one with this member."""
        return self._plus.setdefault(holder + tier * MOST_HOLDERS, {})

    def minus(self, holder: int, tier: int) -> dict[int, int]:
        """By number of a set, as far as known: the number of the one without this member."""
        return self._minus.setdefault(holder + tier * MOST_HOLDERS, {})

    def with_member(self, number: int, holder: int, tier: int) -> int:
        """The number of the set with one more member; known from then on."""
        member = holder + tier * MOST_HOLDERS
        made = self._number_of(self._members[number] | 1 << member)
        self._plus.setdefault(member, {})[number] = made
        return made

    def without_member(self, number: int, holder: int, tier: int) -> int:
        """The number of the set without a member; known from then on."""
        member = holder + tier * MOST_HOLDERS
        made = self._number_of(self._members[number] & ~(1 << member))
        self._minus.setdefault(member, {})[number] = made
        return made

    def without_holder(self, number: int, holder: int) -> int:
        """The number of the set without a holder, whatever it holds."""
        gone = sum(1 << holder + tier * MOST_HOLDERS for tier in range(TIERS))
        return self._number_of(self._members[number] & ~gone)

    @property
    def sweep_due(self) -> bool:
        """So many numbers are given that those of sets that no longer occur should be freed."""
        return len(self._number) > self._sweep_at

    def sweep(self, in_use: Entries) -> None:
        """Free the numbers that do not occur. What `plus` and `minus` returned is void."""
        used = np.bincount(in_use, minlength=len(self._members)) > 0
        used[NOBODY] = True
        for members, number in list(self._number.items()):
            if not used[number]:
                del self._number[members]
                self._free.append(number)
        for known in (*self._plus.values(), *self._minus.values()):
            known.clear()
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._number))

    def forget(self, holder: int) -> None:
        """It is in no set any more."""
        for tier in range(TIERS):
            self._plus.pop(holder + tier * MOST_HOLDERS, None)
            self._minus.pop(holder + tier * MOST_HOLDERS, None)

    def _number_of(self, members: int) -> int:
        number = self._number.get(members)
        if number is not None:
            return number
        if self._free:
            number = self._free.pop()
        else:
            number = len(self._members)
            self._members.append(0)
            for masks in self.within:
                masks.append(0)
        self._number[members] = number
        self._members[number] = members
        mask = 0
        for tier, masks in enumerate(self.within):
            mask |= (members >> tier * MOST_HOLDERS) & _LOW
            masks[number] = mask
        return number
