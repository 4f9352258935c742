"""What can be put into force."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.reading.accept import accept

EXAMPLES = sorted((Path(__file__).parents[4] / "deploy" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(path: Path) -> None:
    assert accept(path, environment={}).pools
