"""Batches of KV events from the wire: msgpack, as vLLM writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, TypeGuard

import msgspec

from picker.state.cache.events import AllBlocksCleared, BlockRemoved, BlockStored, Event

_UNREADABLE: Final = (ValueError, RecursionError)
"""What a payload can raise: msgspec's errors are ValueErrors, nesting that is too deep is not."""
_PIECE_BLOCKS: Final = 256
"""A longer event is cut, so that taking it in can be interrupted."""


class _Batch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]


class _AnyBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[msgspec.Raw]


_decode: Final = msgspec.msgpack.Decoder(_Batch).decode
_decode_any: Final = msgspec.msgpack.Decoder(_AnyBatch).decode
_decode_event: Final = msgspec.msgpack.Decoder[Event](
    BlockStored | BlockRemoved | AllBlocksCleared
).decode
_decode_list: Final = msgspec.msgpack.Decoder(list[object]).decode

_FIELDS: Final = {
    "BlockStored": (
        *("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id"),
        *("medium", "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind"),
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}
"""In their order where an event is a list: before vLLM 0.12, and in SGLang."""


def read_batch(payload: bytes) -> tuple[list[Event], int]:
    """The events of a batch, and how many could not be read. Raises ValueError for what is no
    batch."""
    try:
        return list(_decode(payload).events), 0
    except msgspec.ValidationError:
        pass
    except _UNREADABLE as error:
        raise ValueError(str(error)) from error
    try:
        raws = _decode_any(payload).events
    except _UNREADABLE as error:
        raise ValueError(str(error)) from error
    events: list[Event] = []
    for raw in raws:
        try:
            events.append(_read_event(raw))
        except _UNREADABLE:
            continue
    return events, len(raws) - len(events)


def pieces(events: Sequence[Event]) -> Iterator[Event]:
    """The events; in place of long ones several that say the same, each of a bounded number of
    blocks."""
    if not any(map(_is_long, events)):
        return iter(events)
    return chain.from_iterable(_cut(event) if _is_long(event) else (event,) for event in events)


def _is_long(event: Event) -> TypeGuard[BlockStored | BlockRemoved]:
    return not isinstance(event, AllBlocksCleared) and len(event.block_hashes) > _PIECE_BLOCKS


def _cut(event: BlockStored | BlockRemoved) -> Iterator[Event]:
    if isinstance(event, BlockStored):
        yield from _cut_stored(event)
        return
    for start in range(0, len(event.block_hashes), _PIECE_BLOCKS):
        some = event.block_hashes[start : start + _PIECE_BLOCKS]
        yield msgspec.structs.replace(event, block_hashes=some)


def _cut_stored(event: BlockStored) -> Iterator[Event]:
    hashes, size, extras = event.block_hashes, event.block_size, event.extra_keys
    if len(event.token_ids) not in (0, len(hashes) * size):
        yield event  # a mistake, whoever takes it in
        return
    parent = event.parent_block_hash
    for start in range(0, len(hashes), _PIECE_BLOCKS):
        stop = start + _PIECE_BLOCKS
        yield msgspec.structs.replace(
            event,
            block_hashes=hashes[start:stop],
            parent_block_hash=parent,
            token_ids=event.token_ids[start * size : stop * size],
            extra_keys=None if extras is None else extras[start:stop],
        )
        parent = hashes[min(stop, len(hashes)) - 1]


def _read_event(raw: msgspec.Raw) -> Event:
    event: Event
    try:
        event = _decode_event(raw)
    except msgspec.ValidationError:
        tag, *values = _decode_list(raw) or [None]
        if not isinstance(tag, str) or tag not in _FIELDS:
            raise
        named = {"type": tag, **dict(zip(_FIELDS[tag], values, strict=False))}
        event = msgspec.convert(named, BlockStored | BlockRemoved | AllBlocksCleared)
    return event
