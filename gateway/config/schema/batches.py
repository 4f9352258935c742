"""The batch lane: files and batches of OpenAI's API."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.schema.section import ConfigPath, Section
from gateway.config.schema.terms import Count, Seconds


class Batches(Section):
    """Files and batches (`/v1/files`, `/v1/batches`), whose lines are served by capacity that is
    idle. Penstock serves them beside its own Envoy; where `passthrough` names these paths, they go
    to the replicas instead."""

    enabled: bool = True
    """false: there are no files and batches."""
    folder: ConfigPath | None = None
    """Folder for the files, and for the records of files and batches. Null: `batches` in
    `state_dir`. Made when the first file comes."""
    max_file_bytes: Annotated[int, Field(ge=1024, le=1 << 34)] = 200 << 20
    """Longest file, bytes. It is never in memory as a whole."""
    max_lines: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    """Lines of one batch, at most."""
    max_line_bytes: Annotated[int, Field(ge=64, le=64 << 20)] = 8 << 20
    """Longest line, bytes."""
    max_tenant_bytes: Annotated[int, Field(ge=1024)] = 10 << 30
    """All files of a tenant together, bytes, outputs among them. A new upload that would be more is
    refused; outputs are always written."""
    max_tenant_batches: Count = 1_000
    """Batches of a tenant that are not over, at most."""
    retention_s: Annotated[float, Field(ge=3_600)] = 30 * 86_400.0
    """Files, and batches that are over, are deleted after this time, seconds, unless a client has
    asked for another one."""
    concurrency: Annotated[int, Field(ge=1, le=4_096)] = 256
    """Lines under way at a time, at most, for all batches. As many run as there is idle capacity
    for."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Times that a line is sent whose tries fail: an answer with a status from 500 on, or none.
    Waiting for capacity or for a limit is no try."""
    cancel_grace_s: Seconds = 10.0
    """Lines that run when their batch is cancelled have this long to end, seconds."""
