"""Tests of real vLLM need its environment: without it they are skipped, but never in CI."""

from __future__ import annotations

import os

import pytest

from tests.real.vllm import install


def need_vllm() -> None:
    """Skips what calls it when vLLM is not installed; fails it where CI=true is set."""
    if install.installed():
        return
    reason = f"no vLLM in {install.environment()}: run tests/real/vllm/install.py (make vllm)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
