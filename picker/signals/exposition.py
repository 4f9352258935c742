"""Finding a few families in a Prometheus text body (format 0.0.4) without parsing the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_AFTER_NAME = frozenset(b"{ \t")


def samples(body: bytes, family: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(labels, value) of each sample of ``family``, as bytes; labels without the braces.

    The format keeps the samples of a family together, so the search ends at the first line that
    is another family's. A family whose name only begins alike is not taken for this one.
    """
    at = _first_line(body, family)
    while at >= 0:
        end = body.find(b"\n", at)
        if end < 0:
            end = len(body)
        after_name = at + len(family)
        brace = body.rfind(b"}", after_name, end) if body[after_name] == 0x7B else -1
        labels = body[after_name + 1 : brace] if brace > 0 else b""
        value = body[(brace + 1 if brace > 0 else after_name) : end].split(None, 1)
        yield labels, value[0] if value else b""
        at = end + 1
        if not _is_sample(body, at, family):
            return


def _first_line(body: bytes, family: bytes) -> int:
    if _is_sample(body, 0, family):
        return 0
    line = b"\n" + family
    at = body.find(line)
    while at >= 0:
        if _is_sample(body, at + 1, family):
            return at + 1
        at = body.find(line, at + 1)
    return -1


def _is_sample(body: bytes, at: int, family: bytes) -> bool:
    end = at + len(family)
    return body.startswith(family, at) and end < len(body) and body[end] in _AFTER_NAME


@lru_cache(maxsize=4096)
def label_values(labels: bytes) -> Mapping[str, str]:
    """The labels between the braces of a sample, by name. Kept, as info lines rarely change."""
    return {
        name.decode(): _unescape(value.decode("utf-8", "replace"))
        for name, value in _LABEL.findall(labels)
    }


def _unescape(value: str) -> str:
    if "\\" not in value:
        return value
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], value)
