"""Replicas under a live comparison."""

import pytest

from loadtests.lab.live.replicas import addresses
from loadtests.lab.source import LabError


def test_replicas_that_run_are_named_by_address() -> None:
    assert addresses("http://127.0.0.1:8000/, b:9") == ("127.0.0.1:8000", "b:9")
    for wrong in ("", "localhost", "http://a:1/v1", "a:1,a:1"):
        with pytest.raises(LabError, match="--replica"):
            addresses(wrong)
