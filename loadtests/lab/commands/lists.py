"""``penstock lab workloads``, ``policies`` and ``profiles``: what there is."""

from __future__ import annotations

from rich.table import Table

from loadtests.lab.commands import options as given
from loadtests.lab.source import Source
from loadtests.sim.model.profile import built_in, built_in_names
from loadtests.workloads.catalogue import CATALOGUE
from policies import registry


def workloads() -> None:
    """The catalogue of workloads."""
    table = Table("workload", "what it is", "its own load")
    for name, entry in CATALOGUE.items():
        source = Source(name)
        table.add_row(name, entry.about, source.levels()[0].label)
    given.console().print(table)


def policies() -> None:
    """Routing policies that can be compared, those of plugins among them."""
    with given.problems():
        registry.load_plugins()
    table = Table("policy", "what it does")
    table.columns[0].no_wrap = True
    for name in registry.names("policy"):
        table.add_row(name, registry.about("policy", name))
    given.console().print(table)


def profiles() -> None:
    """Built-in profiles: a model on an accelerator, and how fast that is."""
    table = Table("profile", "KV tokens", "what it is, and where its figures are from")
    table.columns[0].no_wrap = True
    with given.problems():
        for name in built_in_names():
            profile = built_in(name)
            table.add_row(
                name,
                f"{profile.kv_blocks() * 16:,}",
                f"{profile.what()}: {profile.source}",
                end_section=True,
            )
    given.console().print(table)
