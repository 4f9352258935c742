"""Events as the picker reports them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from picker.request.labels import RequestLabels
from picker.seams.observer import Completed, Rejected


def _labels(model: str = "llama", pool: str = "main") -> RequestLabels:
    return RequestLabels("id-1", "acme", model, pool, "/v1/chat/completions", key="k1", user="ann")


def _completed(model: str = "llama", **changes: object) -> Completed:
    fields: dict[str, object] = {
        "labels": _labels(model),
        "endpoint": "10.0.0.1:8000",
        "status": 200,
        "reason": "ok",
        "streaming": True,
        "input_tokens": 100,
        "output_tokens": 11,
        "cached_tokens": 64,
        "usage_reported": True,
        "matched_tokens": 80.0,
        "ttft_s": 0.25,
        "duration_s": 1.25,
        "queue_s": 0.0,
        "decision_s": 0.0004,
    }
    return Completed(**(fields | changes))  # type: ignore[arg-type]


def _rejected(model: str = "llama", reason: str = "model_not_found") -> Rejected:
    return Rejected(_labels(model, pool=""), 404, reason, 0.0002)


@pytest.fixture
def completed() -> Callable[..., Completed]:
    return _completed


@pytest.fixture
def rejected() -> Callable[..., Rejected]:
    return _rejected
