"""Configurations of Envoy."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.gateway.envoy.command import penstock
from tests.gateway.envoy.rendering import Rendered


@pytest.fixture
def rendered(tmp_path: Path) -> Rendered:
    """Write a configuration and return the file of the Envoy configuration it leads to."""

    def render(text: str) -> Path:
        source, target = tmp_path / "penstock.yaml", tmp_path / "envoy.json"
        source.write_text(textwrap.dedent(text))
        told = penstock("envoy", "config", "--with-secrets", "-c", str(source))
        assert told.exit_code == 0, told.stderr
        target.write_text(told.stdout)
        return target

    return render
