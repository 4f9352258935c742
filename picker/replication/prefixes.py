"""What requests leave behind (prefix blocks, sessions, adapters), packed for the other pickers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import numpy as np

from picker.seams.peers import Sent
from picker.wire import state_pb2

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
    addresses = message.addresses
    count = len(addresses)
    chains_of = list(message.chains) or [1] * count
    blocks = list(message.blocks)
    hashes = np.frombuffer(message.hashes, "<u8").astype(np.uint64, copy=False).data
    if sum(chains_of) != len(blocks) or sum(blocks) != len(hashes):
        raise ValueError("a batch of prefixes has chains that do not fit")
    start, chains = 0, []
    for length in blocks:
        chains.append(hashes[start : start + length])
        start += length
    if message.added and len(message.added) != len(chains):
        raise ValueError("a batch of prefixes takes back what does not fit")
    rest, added = iter(chains), iter(message.added)
    pool, none = message.pool, [""] * count
    return [
        Sent(
            pool,
            address,
            list(islice(rest, chain_count)),
            adapter,
            session,
            tuple(islice(added, chain_count)),
        )
        for address, chain_count, adapter, session in zip(
            addresses,
            chains_of,
            message.adapters or none,
            message.sessions or none,
            strict=True,
        )
    ]


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
