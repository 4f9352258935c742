"""Settings for all tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared: how long an example takes says nothing. Seeds differ from run to run, so half
# of the usual number of examples finds the same in a few runs, within the time of `make test-fast`.
settings.register_profile(
    "shared-machine",
    max_examples=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared-machine")

# Tests start hundreds of processes: each would compile all our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_REAL = Path(__file__).parent / "real"
_LAST_GATEWAY = 0.85
"""Share of the files after which none starts a gateway: those are long, and the longest of them at
the end would leave the other cores idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that start gateways, and mostly wait, among those that compute."""
    paths = dict.fromkeys(item.path for item in items)
    waiting = {path for path in paths if path.is_relative_to(_REAL)}
    place = _spread([path for path in paths if path in waiting], upto=_LAST_GATEWAY)
    place |= _spread([path for path in paths if path not in waiting], upto=1.0)
    items.sort(key=lambda item: place[item.path])


def _spread(paths: Sequence[Path], *, upto: float) -> dict[Path, float]:
    return {path: upto * index / len(paths) for index, path in enumerate(paths)}
