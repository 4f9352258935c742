"""What messages say about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word most like this one; None when none is like it."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else None


def one_of(known: Iterable[str]) -> str:
    """``one of a, b`` for messages."""
    names = sorted(known)
    return f"one of {', '.join(names)}" if names else "one that is defined (there is none)"
