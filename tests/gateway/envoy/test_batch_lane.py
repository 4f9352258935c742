"""The batch lane in Envoy's configuration."""

from __future__ import annotations

import json

import pytest

from picker import names
from tests.gateway.envoy.rendering import Rendered

pytestmark = pytest.mark.envoy

POOL = 'pools: [{name: chat, type: static, endpoints: ["10.0.0.1:8000"]}]\n'


def listeners(rendered: Rendered, config: str) -> dict[str, str]:
    """By name, as text."""
    found = json.loads(rendered(config).read_text())["static_resources"]["listeners"]
    return {one["name"]: json.dumps(one) for one in found}


def test_only_the_lanes_own_listener_lets_the_header_of_lines_pass(rendered: Rendered) -> None:
    found = listeners(rendered, POOL)
    removed = {name: json.dumps({"remove": name}) for name in (names.BATCH_LINE, names.CALLER)}
    assert all(text in found["clients"] for text in removed.values())
    assert removed[names.BATCH_LINE] not in found["lines"]
    assert removed[names.CALLER] in found["lines"]
    assert '"pipe"' in found["lines"]


@pytest.mark.parametrize(
    "more",
    [
        "batches: {enabled: false}",
        "passthrough: [/v1/files]",
        "passthrough: [/v1/batches/*]",
        "passthrough: [/v1/*]",
    ],
)
def test_without_a_lane_there_is_nothing_of_it(rendered: Rendered, more: str) -> None:
    found = listeners(rendered, POOL + more)
    assert [*found] == ["clients"]
    assert names.BATCHES_CLUSTER not in found["clients"]


def test_another_open_path_leaves_the_lane(rendered: Rendered) -> None:
    assert "lines" in listeners(rendered, POOL + "passthrough: [/v1/filesystem, /v1/other/*]")
