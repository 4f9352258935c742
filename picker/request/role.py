"""Which part of a request an endpoint computes."""

from __future__ import annotations

import enum


class Role(enum.StrEnum):
    """Of an endpoint: what it can compute. Of a pick: what it is to compute."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"
