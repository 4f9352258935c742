"""No picker answers, and requests are to go on without one: only where clients may go."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from gateway.envoy.plan import EnvoyPlan
from tests.real.edge import Edge
from tests.real.replicas import Recorder

pytestmark = pytest.mark.envoy


def fails_open(plan: EnvoyPlan) -> EnvoyPlan:
    picker = plan.config.picker.model_copy(update={"failure_mode": "open"})
    update = {"picker": picker, "passthrough": ("/v1/files/*",)}
    return replace(plan, config=plan.config.model_copy(update=update))


async def test_an_engines_control_paths_stay_closed_without_a_picker() -> None:
    async with (
        Recorder() as replica,
        Edge([replica.address], plan=fails_open) as edge,
        aiohttp.ClientSession(edge.url) as http,
    ):
        await edge.stop_picker()
        for method, path, status in (
            ("POST", "/v1/chat/completions", 200),
            ("POST", "/v1/completions?x=1", 200),
            ("GET", "/v1/responses/resp_1", 200),
            ("DELETE", "/v1/files/file-1/content", 200),
            ("GET", "/v1/chat/completions", 503),
            ("POST", "/sleep", 503),
            ("POST", "/v1/load_lora_adapter", 503),
            ("GET", "/metrics/v1/chat/completions", 503),
            ("GET", "/v1/responses/resp_1/secret", 503),
            ("POST", "/v1/files/../../sleep", 503),
            ("POST", "/v1/chat/completions;x", 503),
        ):
            answer = await http.request(method, path)
            assert answer.status == status, (method, path)
            if status == 503:
                error = (await answer.json())["error"]
                assert error["code"] == "picker_unavailable"
        assert len(replica.seen) == 4
