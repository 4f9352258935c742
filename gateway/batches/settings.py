"""What the batch lane works by: a document that the supervisor writes."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct


class LaneSettings(Struct, frozen=True, kw_only=True):
    """See the section `batches` of the configuration for most of them."""

    folder: Path
    socket: Path
    """Of the listener of our Envoy that takes lines."""
    key: str
    """By which pickers know a line of ours."""
    max_file_bytes: int
    max_lines: int
    max_line_bytes: int
    max_tenant_bytes: int
    max_tenant_batches: int
    retention_s: float
    concurrency: int
    attempts: int
    cancel_grace_s: float
    drain_s: float

    def to_bytes(self) -> bytes:
        """As it is written."""
        return msgspec.json.encode(self, enc_hook=str)

    @classmethod
    def from_bytes(cls, content: bytes) -> LaneSettings:
        """As it was written."""
        return msgspec.json.decode(content, type=cls, dec_hook=lambda _, text: Path(text))
