"""What requests leave behind (prefix blocks, sessions, adapters), packed for the other pickers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise, repeat
from typing import Final, TypeVar

import numpy as np

from picker.seams.peers import Sent
from picker.wire import state_pb2

T = TypeVar("T")

MAX_HASHES: Final = 8192
"""Of one request: the first 30 MB of a prompt. The others do not hear of the rest."""


def pack(requests: Iterable[Sent]) -> Iterator[state_pb2.Sent]:
    """One message for each pool."""
    by_pool: dict[str, list[Sent]] = {}
    for sent in requests:
        by_pool.setdefault(sent.pool, []).append(sent)
    for pool, of_pool in by_pool.items():
        hashes = array("Q")
        blocks: list[int] = []
        chains: list[int] = []
        added: list[int] = []
        for sent in of_pool:
            kept = _shortened(sent.chains)
            for blocks_of in kept:
                hashes.extend(blocks_of)
                blocks.append(len(blocks_of))
            chains.append(len(kept))
            added += _of_the_rest(sent, kept)
        yield state_pb2.Sent(
            pool=pool,
            addresses=[sent.address for sent in of_pool],
            sessions=_or_none([sent.session for sent in of_pool]),
            adapters=_or_none([sent.adapter for sent in of_pool]),
            chains=() if chains.count(1) == len(chains) else chains,
            added=added if any(added) else (),
            blocks=blocks,
            hashes=np.frombuffer(hashes, np.uint64).astype("<u8", copy=False).tobytes(),
        )


def unpack(message: state_pb2.Sent) -> list[Sent]:
    """Chains are views of the message's bytes: of a prompt whose beginning is known only the end is
    looked at. Raises ValueError when the columns do not fit."""
    addresses, count = message.addresses, len(message.addresses)
    adapters = message.adapters or [""] * count
    sessions = message.sessions or [""] * count
    hashes = np.frombuffer(message.hashes, "<u8").astype(np.uint64, copy=False).data
    ends = list(accumulate(message.blocks, initial=0))
    chains = [hashes[start:end] for start, end in pairwise(ends)]
    sizes = message.chains or [1] * count
    if not (
        (len(sizes) == len(adapters) == len(sessions) == count)
        and (sum(sizes) == len(chains) and ends[-1] == len(hashes))
        and len(message.added) in (0, len(chains))
    ):
        raise ValueError("a batch of prefixes has columns that do not fit")
    of_each: Iterable[Sequence[Sequence[int]]]
    added: Iterable[Sequence[int]]
    if message.chains or message.added:
        of_each, added = _cut(chains, sizes), _cut(message.added, sizes)
    else:
        of_each, added = zip(chains), repeat(())  # quickly, for there are thousands a second
    return list(map(Sent, repeat(message.pool), addresses, of_each, adapters, sessions, added))


def _cut(values: Iterable[T], sizes: Iterable[int]) -> Iterator[tuple[T, ...]]:
    """Tuples of these sizes, shorter where there are no more values."""
    rest = iter(values)
    return (tuple(islice(rest, size)) for size in sizes)


def _shortened(chains: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    if sum(map(len, chains)) <= MAX_HASHES:
        return chains
    kept, room = [], MAX_HASHES
    for blocks in chains:
        kept.append(blocks[:room])
        room -= len(kept[-1])
    return kept


def _of_the_rest(sent: Sent, kept: Sequence[Sequence[int]]) -> Iterator[int]:
    """What the request has added, of the chains as they are kept: the others do not know what is
    cut off."""
    for index, chain in enumerate(kept):
        new = sent.added[index] if index < len(sent.added) else 0
        yield max(0, new - (len(sent.chains[index]) - len(chain)))


def _or_none(words: list[str]) -> list[str]:
    return words if any(words) else []
