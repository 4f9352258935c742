"""The command `penstock`, in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from gateway.cli import app


def penstock(*arguments: str) -> Result:
    """Run it to its end."""
    return CliRunner().invoke(app, arguments)
