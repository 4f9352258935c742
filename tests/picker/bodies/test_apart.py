"""The process that works on heavy bodies: the same results, and a death that harms nobody."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from picker.bodies.apart import BodyLost, BodyProcess
from picker.bodies.edits import Edits, edit
from picker.bodies.reading import read_heavy
from picker.caps import Caps
from picker.prompt.forms import Form
from picker.request.answer import Answer, Decision
from tests.picker.fleet import MODEL, ask, chat, fleet


@pytest.fixture(scope="module")
def process() -> Iterator[BodyProcess]:
    made = BodyProcess()
    yield made
    made.close()


def _die(body: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(body: bytes) -> None:
    raise ValueError("no")


async def test_results_are_the_same_as_here(process: BodyProcess) -> None:
    body = chat("x" * 100_000, stream=True)
    args = (body, Form.CHAT, Caps())
    assert await process.run(read_heavy, *args) == read_heavy(*args)
    edits = Edits("other", ask_for_usage=True)
    assert await process.run(edit, body, edits) == edit(body, edits)
    assert await process.run(read_heavy, b"{", Form.CHAT, Caps()) == read_heavy(
        b"{", Form.CHAT, Caps()
    )


async def test_after_its_death_there_is_another(process: BodyProcess) -> None:
    with pytest.raises(BodyLost):
        await process.run(_die, b"{}")
    assert not isinstance(await process.run(edit, b"{}", Edits("m")), Exception)
    with pytest.raises(RuntimeError, match="no"):
        await process.run(_fail, b"{}")


async def test_a_heavy_body_is_read_and_changed_there(process: BodyProcess) -> None:
    made = fleet(apart=process)
    body = chat("[" * 10_000 + "x" * 40_000, stream=True)
    outcome = await ask(made, body)
    assert isinstance(outcome, Decision)
    assert outcome.body is not None
    assert b"include_usage" in outcome.body


async def test_a_body_that_kills_it_is_refused() -> None:
    closed = BodyProcess()
    closed.close()
    outcome = await ask(fleet(apart=closed), chat("[" * 10_000 + "x" * 40_000))
    assert isinstance(outcome, Answer)
    assert outcome.status == 413
    assert MODEL.encode() not in outcome.body
