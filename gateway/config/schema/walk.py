"""Walking the schema: the sections and keys below a location."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Tag

from gateway.config.schema.section import Section


def keys_at(root: type[Section], location: Sequence[str | int]) -> list[str]:
    """The keys of the section at a location; empty when no section is there. ``location``: as
    pydantic gives it, with the names of union members."""
    current: object = root
    for part in location:
        current = _step(current, part)
    return [key for section in sections_of(current) for key in section.model_fields]


def hints(section: type[Section]) -> dict[str, object]:
    """The annotations of a section's keys, with their metadata."""
    found = get_type_hints(section, include_extras=True)
    return {key: found[key] for key in section.model_fields}


def members(annotation: object) -> Iterator[tuple[str | None, object]]:
    """The alternatives of a union, each with the tag by which pydantic knows it; else the type."""
    bare, tag = _bare(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        for member in get_args(bare):
            yield from members(member)
    else:
        yield tag or _literal_tag(bare), bare


def sections_of(annotation: object) -> Iterator[type[Section]]:
    """The sections among the alternatives of an annotation."""
    for _, member in members(annotation):
        if isinstance(member, type) and issubclass(member, Section):
            yield member


def item_of(annotation: object) -> object | None:
    """The type of the items of a list or of the values of a mapping; None for anything else."""
    for _, member in members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if origin is tuple:
            return arguments[0] if arguments else None
        if origin is Mapping:
            return arguments[1] if arguments else None
    return None


def _step(annotation: object, part: str | int) -> object:
    for tag, member in members(annotation):
        if tag is not None and tag == part:
            return member
    for section in sections_of(annotation):
        if part in section.model_fields:
            return hints(section)[str(part)]
    return item_of(annotation)


def _bare(annotation: object) -> tuple[object, str | None]:
    tag = None
    while get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        tag = next((m.tag for m in metadata if isinstance(m, Tag)), tag)
    return annotation, tag


def _literal_tag(member: object) -> str | None:
    if not (isinstance(member, type) and issubclass(member, Section)):
        return None
    kind = hints(member).get("type")
    return str(get_args(kind)[0]) if get_origin(kind) is Literal else None
