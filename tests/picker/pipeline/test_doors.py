"""What is not let in at all."""

from __future__ import annotations

import pytest

from picker.pipeline.doors import CLOSED_PATHS, RefuseClosedPaths, RefuseWhenDraining
from picker.request.rejection import Reason
from tests.picker.pipeline.steps import begun, refusal


async def test_only_a_draining_picker_refuses() -> None:
    draining = False
    step = RefuseWhenDraining(lambda: draining)
    await step(begun())
    draining = True
    rejection = await refusal(step, begun(), Reason.SHUTTING_DOWN)
    assert ("x-llm-d-request-dropped-reason", "rejected-shutting-down") in rejection.headers()


@pytest.mark.parametrize("path", sorted(CLOSED_PATHS))
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_engines_own_paths_are_closed(path: str, method: str) -> None:
    for spelling in (path, path + "/"):
        await refusal(RefuseClosedPaths(), begun(spelling, method), Reason.PATH_NOT_FOUND)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/sleepy", "/loads"])
async def test_other_paths_are_open(path: str) -> None:
    await RefuseClosedPaths()(begun(path))
