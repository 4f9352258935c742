"""Checks that need more than one section of the configuration."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.checks.nearest import nearest, one_of
from gateway.config.checks.ports import check_ports
from gateway.config.checks.tenancy import check_tenancy
from gateway.config.schema.fault import Fault, Location, repeats
from gateway.config.schema.sections import Sections


def check_sections(config: Sections) -> list[Fault]:
    """Everything that is wrong between the sections, with locations from the top of the file."""
    return [
        *_names(config),
        *_default_pools(config),
        *_profiles(config),
        *_shadows(config),
        *_model_rules(config),
        *check_ports(config),
        *_scrape_times(config),
        *check_tenancy(config),
    ]


def _names(config: Sections) -> Iterator[Fault]:
    for kind, named in (
        ("pools", config.pools),
        ("plans", config.plans),
        ("tenants", config.tenants),
    ):
        for index, first in repeats(one.name for one in named):
            yield Fault(
                (kind, index, "name"),
                f"a name that no other {kind.removesuffix('s')} has",
                hint=f"{kind}[{first}] has it already",
            )


def _default_pools(config: Sections) -> Iterator[Fault]:
    defaults = [index for index, pool in enumerate(config.pools) if pool.default]
    for index in defaults[1:]:
        yield Fault(
            ("pools", index, "default"),
            "at most one default pool",
            hint=f"pools[{defaults[0]}] ({config.pools[defaults[0]].name}) is it already",
        )


def _profiles(config: Sections) -> Iterator[Fault]:
    known = config.scheduling.profiles
    named: list[tuple[Location, str]] = [
        (("scheduling", "default_profile"), config.scheduling.default_profile)
    ]
    named += [
        (("pools", index, "profile"), pool.profile)
        for index, pool in enumerate(config.pools)
        if pool.profile is not None
    ]
    named += [
        (("pools", index, "shadow"), pool.shadow)
        for index, pool in enumerate(config.pools)
        if pool.shadow is not None
    ]
    for at, name in named:
        if name not in known:
            yield Fault(
                at, f"a profile of scheduling.profiles: {one_of(known)}", hint=nearest(name, known)
            )


def _shadows(config: Sections) -> Iterator[Fault]:
    for index, pool in enumerate(config.pools):
        in_force = pool.profile or config.scheduling.default_profile
        if pool.shadow == in_force:
            yield Fault(
                ("pools", index, "shadow"),
                "another profile than the one that decides",
                hint=f"{in_force} is in force for the pool; leave `shadow` out",
            )


def _model_rules(config: Sections) -> Iterator[Fault]:
    pools = {pool.name for pool in config.pools}
    names = [rule.name for rule in config.models]
    for index, first in repeats(names):
        yield Fault(
            ("models", index, "name"),
            "one rule for each model name",
            hint=f"models[{first}] has it already; put the targets into one rule",
        )
    for index, rule in enumerate(config.models):
        at: Location = ("models", index, "targets")
        if all(target.weight == 0 for target in rule.targets):
            yield Fault(at, "at least one target with a weight above 0", got="only weights of 0")
        for number, target in enumerate(rule.targets):
            if target.model == "*":
                yield Fault((*at, number, "model"), "the name of a model that replicas serve")
            elif target.model in names and target.model != rule.name:
                yield Fault(
                    (*at, number, "model"),
                    "a model that replicas serve",
                    hint=f"{target.model} is a rule (models[{names.index(target.model)}]) and rules"
                    " are not followed twice: name that rule's targets here",
                )
            if target.pool is not None and target.pool not in pools:
                yield Fault(
                    (*at, number, "pool"),
                    f"the name of a pool: {one_of(pools)}",
                    hint=nearest(target.pool, pools),
                )


def _scrape_times(config: Sections) -> Iterator[Fault]:
    scrape = config.picker.scrape
    slowest = max(scrape.interval_s, scrape.idle_interval_s)
    if scrape.stale_after_s <= slowest:
        yield Fault(
            ("picker", "scrape", "stale_after_s"),
            f"more than the time between two reads, {slowest:g}",
            hint="otherwise every replica is stale between two reads",
        )
