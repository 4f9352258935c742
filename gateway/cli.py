"""The command ``penstock``."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import orjson
import typer

from gateway.commands import batches, keys, tenants
from gateway.commands.explain import explain
from gateway.commands.output import fail
from gateway.commands.queue import queue
from gateway.commands.standing import limits
from gateway.commands.status import status
from gateway.commands.usage import usage

if TYPE_CHECKING:
    from gateway.config.config import Config
    from gateway.config.schema.secret import Secret

# Imports of the configuration and of the parts that run stand in the commands that need them: the
# others shall not wait for them.

app = typer.Typer(
    help="Penstock: an LLM-aware inference gateway.", no_args_is_help=True, add_completion=False
)
config_app = typer.Typer(help="The configuration file.", no_args_is_help=True)
envoy_app = typer.Typer(help="The Envoy that Penstock runs.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(envoy_app, name="envoy")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(batches.app, name="batches")

COMMANDS: Final = "penstock.commands"
"""Entry points: each a `typer.Typer` that becomes a command of its name."""

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Configuration file (YAML).")]


def _version(wanted: bool) -> None:
    if wanted:
        show_version()
        raise typer.Exit


@app.callback()
def penstock(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Penstock: an LLM-aware inference gateway."""


@app.command()
def up(config: ConfigOption) -> None:
    """Run Envoy, the picker and the pools of the configuration, until Ctrl-C or SIGTERM."""
    import uvloop

    from gateway.run.rundir import RunDirError
    from gateway.run.supervisor import StartError
    from gateway.run.up import up as run_up

    accepted = _accept(config)
    try:
        uvloop.run(run_up(config, accepted))
    except (StartError, RunDirError) as error:
        fail(str(error))


@config_app.command("check")
def config_check(file: Annotated[Path, typer.Argument(help="Configuration file (YAML).")]) -> None:
    """Check a file. Each problem has its line and key, what was found and what would be right."""
    accepted = _accept(file)
    pools = len(accepted.pools)
    print(f"{file}: good, {pools} pool{'' if pools == 1 else 's'}")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    from gateway.config.config import schema_json

    print(schema_json())


@envoy_app.command("config")
def envoy_config(
    config: ConfigOption,
    with_secrets: Annotated[
        bool,
        typer.Option(
            "--with-secrets",
            help="Print keys and certificates themselves, not where they are from.",
        ),
    ] = False,
) -> None:
    """Print the whole Envoy configuration that a file leads to (JSON).

    Envoy itself accepts it: penstock envoy config -c FILE > e.json; envoy --mode validate -c e.json
    With TLS, that takes --with-secrets: then the output holds private keys.
    """
    from gateway.config.schema.secret import Secret
    from gateway.envoy import render
    from gateway.envoy.plan import EnvoyPlan
    from gateway.run.rundir import RunDir

    accepted = _accept(config)
    run = RunDir(accepted.run_dir or Path("/run/penstock"), temporary=False)
    sockets = tuple(map(run.worker_sockets, range(accepted.picker.workers)))
    secret = Secret.reveal if with_secrets else _instead_of
    whole = render.static(EnvoyPlan(run.path, accepted, sockets, secret))
    print(orjson.dumps(whole, option=orjson.OPT_INDENT_2).decode())


app.command()(status)
app.command()(queue)
app.command()(limits)
app.command()(usage)
app.command()(explain)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    print(f"penstock {version('penstock')}")


def _instead_of(secret: Secret) -> str:
    """Where a secret is from, to show in its place."""
    return f"<from {secret.reference}>"


def _accept(path: Path) -> Config:
    from gateway.config.reading.accept import accept
    from gateway.config.reading.problems import ConfigError
    from policies import registry

    try:
        registry.load_plugins()
        return accept(path)
    except (ConfigError, registry.PolicyError) as error:
        fail(str(error))


def _plug_in(words: Sequence[str]) -> None:
    """Add the command of an entry point that ``words`` ask for, or all where they ask for help.
    ``penstock up`` imports none of them."""
    for point in entry_points(group=COMMANDS):
        if not words or words[0].startswith("-") or words[0] == point.name:
            try:
                added = point.load()
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                fail(f"command {point.name!r} ({point.value}) cannot be loaded: {error}")
            app.add_typer(added, name=point.name)


def main() -> None:
    """Entry point of the command."""
    atexit.register(gc.freeze)  # looking for garbage in all modules makes the end 0.1 s longer
    _plug_in(sys.argv[1:])
    app()


if __name__ == "__main__":
    main()
