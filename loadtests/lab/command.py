"""``penstock lab``. The ``penstock`` command finds it by the entry points ``penstock.commands``."""

from __future__ import annotations

import typer

from loadtests.bench import peers
from loadtests.lab.commands import lists, parity
from loadtests.lab.commands.fairness import fairness
from loadtests.lab.commands.limits import limits
from loadtests.lab.commands.live import live
from loadtests.lab.commands.sim import sim
from loadtests.lab.commands.size import size
from loadtests.lab.commands.suite import suite
from loadtests.lab.commands.tenants import tenants
from loadtests.sim.calibration import fit

app = typer.Typer(
    help="Compare routing policies in simulation and gateways over HTTP; size fleets. No GPU.",
    no_args_is_help=True,
    add_completion=False,
)

app.command()(sim)
app.command()(live)
app.command()(size)
app.command()(suite)
app.command()(fairness)
app.command()(tenants)
app.command()(limits)
app.command("fit")(fit.main)
app.command("parity")(parity.main)
app.command()(lists.workloads)
app.command()(lists.policies)
app.command()(lists.profiles)
app.command("peers")(peers.main)
