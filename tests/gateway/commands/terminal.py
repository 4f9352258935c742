"""A terminal in which commands run against one Penstock."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from gateway.cli import app
from tests.gateway.admin.place import Place


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands against the admin API of a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment: dict[str, str | None] = {
            "PENSTOCK_ADMIN_URL": url,
            "PENSTOCK_ADMIN_TOKEN": None,
        }

    async def any(self, *words: str, answers: str = "") -> Printed:
        """A command, whatever comes of it."""
        result = await asyncio.to_thread(
            CliRunner().invoke, app, words, input=answers, env=self.environment
        )
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return Printed(result.exit_code, result.stdout, result.stderr)

    async def __call__(self, *words: str) -> Printed:
        """A command that succeeds."""
        printed = await self.any(*words)
        assert (printed.code, printed.err) == (0, "")
        return printed

    async def refused(self, *words: str) -> str:
        """The one line of a command that fails."""
        printed = await self.any(*words)
        assert (printed.code, printed.out) == (1, "")
        (line,) = printed.err.splitlines()
        return line


class Terminal(Shell):
    """Runs commands against one Penstock."""

    def __init__(self, made: Place, url: str) -> None:
        super().__init__(url)
        self.place = made


def cells(line: str) -> list[str]:
    """Of a table's line: columns are at least two spaces apart."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]
