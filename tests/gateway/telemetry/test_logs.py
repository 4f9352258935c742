"""The process log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from gateway.telemetry import logs


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_exception() -> None:
    stream = io.StringIO()
    logs.set_up("info", role="picker-0", stream=stream)
    try:
        dict[str, str]()["gone"]
    except KeyError:
        logging.getLogger("picker.x").exception("reading %s failed", "10.0.0.1:1")
    text = stream.getvalue()
    assert "ERROR   picker-0 picker.x: reading 10.0.0.1:1 failed\n" in text
    assert text.endswith("KeyError: 'gone'\n")


def test_the_level() -> None:
    stream = io.StringIO()
    logs.set_up("warning", role="supervisor", stream=stream)
    logging.getLogger("gateway").info("not shown")
    logging.getLogger("gateway").warning("shown")
    assert stream.getvalue().endswith("WARNING supervisor gateway: shown\n")
    assert "not shown" not in stream.getvalue()


def test_setting_up_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up("info", role="a", stream=first)
    logs.set_up("info", role="a", stream=second)
    logging.getLogger("x").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
