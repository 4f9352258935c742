"""Options that several commands share."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from loadtests.lab.commands.options import RunOptions, bundled
from loadtests.sim.model.profile import built_in


@dataclass(frozen=True)
class Pair:
    left: Annotated[int, typer.Option(help="First.", min=1)] = 1
    right: Annotated[str, typer.Option(help="Second.")] = "r"


def test_a_command_gets_the_options_of_a_bundle_as_one_value() -> None:
    app, seen = typer.Typer(), list[tuple[str, Pair, bool]]()

    @app.command()
    @bundled
    def command(*, name: str = "n", pair: Pair, loud: bool = False) -> None:
        seen.append((name, pair, loud))

    run = CliRunner().invoke
    assert run(app, ["--name", "n", "--left", "3", "--loud"]).exit_code == 0
    assert run(app, ["--name", "n"]).exit_code == 0
    assert seen == [("n", Pair(3, "r"), True), ("n", Pair(), False)]
    assert "left" in run(app, ["--name", "n", "--left", "0"]).output
    listed = run(app, ["--help"]).output
    assert [listed.index(word) for word in ("--name", "--left", "--right", "--loud")] == sorted(
        listed.index(word) for word in ("--name", "--left", "--right", "--loud")
    )


def test_a_context_that_does_not_fit_is_shortened() -> None:
    profile = built_in("qwen3-8b-tp1-h100")
    held_tokens = profile.kv_blocks(16) * 16
    assert RunOptions(max_model_len=10**9).limits(profile).max_model_len == held_tokens
    assert RunOptions(max_model_len=1000).limits(profile).max_model_len == 1000
