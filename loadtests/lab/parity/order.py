"""The order of admission, from the order in which blocks were stored."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from loadtests.lab.parity.asks import Burst
from loadtests.lab.parity.recording import Moment


def order_of(
    waves: Iterable[Mapping[str, Sequence[Hashable]]], stored: Iterable[Hashable]
) -> list[str]:
    """Requests in the order in which the first block of their own was stored.

    ``waves``: groups of requests that were under way together, each request with the names of its
    prompt's full blocks (see `events.chain_of`). A block is a request's own when no other request
    of this wave or of an earlier one has it; requests without a block of their own are left out.
    In an engine that computes as much of a prompt as fits into a step, this is the order of
    admission.
    """
    owner: dict[Hashable, str | None] = {}
    for wave in waves:
        having: dict[Hashable, list[str]] = {}
        for name, blocks in wave.items():
            for block in blocks:
                having.setdefault(block, []).append(name)
        for block, names in having.items():
            owner.setdefault(block, names[0] if len(names) == 1 else None)
    order: dict[str, None] = {}
    for block in stored:
        first = owner.get(block)
        if first is not None:
            order.setdefault(first)
    return list(order)


def waves_of(
    bursts: Iterable[Burst], came: Iterable[Moment | None], blocks: Mapping[str, Sequence[Hashable]]
) -> list[dict[str, Sequence[Hashable]]]:
    """For `order_of`: each burst that arrived when nothing was under way, together with the bursts
    that arrived during it."""
    waves: list[dict[str, Sequence[Hashable]]] = []
    for burst, clock in zip(bursts, came, strict=True):
        if clock is None:
            waves.append({})
        waves[-1].update((ask.name, blocks[ask.name]) for ask in burst.asks)
    return waves
