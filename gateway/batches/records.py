"""Files and batches as they are kept, and as the API shows them."""

from __future__ import annotations

import enum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

Json = dict[str, object]


class Status(enum.StrEnum):
    """Where a batch is in its life."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Nothing happens to the batch any more."""
        return self in _FINAL


_FINAL: Final = frozenset({Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED})
_NEXT: Final = {
    Status.VALIDATING: {Status.IN_PROGRESS, Status.FAILED, Status.CANCELLING, Status.EXPIRED},
    Status.IN_PROGRESS: {
        *(Status.FINALIZING, Status.CANCELLING, Status.EXPIRED, Status.FAILED),
    },
    Status.FINALIZING: {Status.COMPLETED, Status.EXPIRED, Status.FAILED},
    Status.CANCELLING: {Status.CANCELLED, Status.FAILED},
}
"""What may follow on a status."""


class Owner(Struct, frozen=True):
    """Who sent something."""

    tenant: str
    key: str = ""
    """Id of the API key, "" without one."""
    user: str = ""
    """User that the key's or token's request named, "" for none."""


class FileRecord(Struct, frozen=True, kw_only=True):
    """A file. Times are seconds since the epoch."""

    id: str
    tenant: str
    filename: str
    purpose: str
    size_bytes: int
    created_s: int
    expires_s: int | None = None

    def as_json(self) -> Json:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_s,
            "expires_at": self.expires_s,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class LineError(Struct, frozen=True):
    """What is wrong with an input file, in one of its lines or as a whole."""

    code: str
    message: str
    line: int | None = None
    """From 1."""
    param: str | None = None

    def as_json(self) -> Json:
        """OpenAI's error of a batch."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "line": self.line,
        }


class Used(Struct, frozen=True):
    """Tokens, as the answers report them."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def as_json(self) -> Json:
        """OpenAI's usage of a batch."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class Counts(Struct, frozen=True):
    """Lines of a batch."""

    total: int = 0
    completed: int = 0
    """Answered: they stand in the output file."""
    failed: int = 0
    """They stand in the error file."""


class BatchRecord(Struct, frozen=True, kw_only=True):
    """A batch. Times are seconds since the epoch."""

    id: str
    owner: Owner
    endpoint: str
    input_file_id: str
    completion_window: str
    created_s: int
    expires_s: int
    output_id: str
    """Of the file that its answers are written to, from its creation on."""
    error_id: str
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    """None: as long as the configuration says."""
    status: Status = Status.VALIDATING
    times_s: dict[str, int] = {}
    """By status: when it came to be in it."""
    errors: tuple[LineError, ...] = ()
    counts: Counts = Counts()
    used: Used = Used()
    model: str | None = None
    output_file_id: str | None = None
    """Once there is something to be read."""
    error_file_id: str | None = None

    def at(self, status: Status, now_s: int) -> BatchRecord:
        """The same in another status. Raises ValueError for one that cannot follow."""
        if status not in _NEXT.get(self.status, ()):
            raise ValueError(f"{self.id} is {self.status}, which {status} cannot follow")
        return replace(self, status=status, times_s={**self.times_s, status.value: now_s})

    def as_json(self) -> Json:
        """OpenAI's batch object."""
        at = self.times_s.get
        errors = [error.as_json() for error in self.errors]
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status.value,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_s,
            "in_progress_at": at("in_progress"),
            "expires_at": self.expires_s,
            "finalizing_at": at("finalizing"),
            "completed_at": at("completed"),
            "failed_at": at("failed"),
            "expired_at": at("expired"),
            "cancelling_at": at("cancelling"),
            "cancelled_at": at("cancelled"),
            "request_counts": {
                "total": self.counts.total,
                "completed": self.counts.completed,
                "failed": self.counts.failed,
            },
            "usage": self.used.as_json(),
            "metadata": self.metadata,
        }
