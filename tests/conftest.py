"""Settings for all tests."""

from __future__ import annotations

import os

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
