"""Envoy itself judges what is rendered."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from gateway.config.schema.envoy import EnvoyProxy
from gateway.envoy.proxy import binary

Rendered = Callable[[str], Path]
"""From a configuration to the file of the Envoy configuration that it leads to."""


def validate(file: Path) -> str:
    """What ``envoy --mode validate`` says; AssertionError when it refuses."""
    command = [str(binary(EnvoyProxy())), "--mode", "validate", "-c", str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    return told.stdout
