"""Configurations as text: what is accepted, and what is refused with one problem."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.config.config import Config
from gateway.config.reading.accept import accept
from gateway.config.reading.load import load
from gateway.config.reading.problems import ConfigError, Problem

PRIVATE = "correct-horse-battery"
HASH = hashlib.sha256(b"k").hexdigest()
POOLS = "pools: [{name: chat, type: simulated}]\n"
LIMIT = "tenants: [{{name: a, limits: [{}]}}]"
KEY = "tenants: [{{name: a, keys: [{{id: k, sha256: {}}}]}}]"
REDIS = "limits: {{store: {{redis: {{{}}}}}}}"


def written(folder: Path, text: str) -> Path:
    path = folder / "penstock.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def loaded(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> Config:
    return load(written(folder, text), environment=environment or {})


def only(path: Path, environment: Mapping[str, str] | None = None) -> Problem:
    """The one problem of a file."""
    with pytest.raises(ConfigError) as refused:
        accept(path, environment=environment or {})
    (problem,) = refused.value.problems
    return problem


def assert_refused(folder: Path, text: str, key: str, says: str) -> None:
    """One problem, at that key, with these words."""
    problem = only(written(folder, text))
    assert problem.key == key
    assert says in str(problem)
    assert problem.line > 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A text with one problem. ``got``, ``expected`` and ``hint`` are parts of what it says."""

    text: str
    position: tuple[int, int]
    """Line and column."""
    key: str
    got: str
    expected: str
    hint: str | None
    """None: there is no hint."""

    def check(self, folder: Path) -> None:
        problem = only(written(folder, self.text))
        assert (problem.line, problem.column) == self.position
        assert problem.key == self.key
        assert self.got in problem.got
        assert self.expected in problem.expected
        assert (self.hint is None) == (problem.hint is None)
        assert self.hint is None or self.hint in str(problem.hint)
