"""Checks that need more than one section of the configuration."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.config.checks.tenancy import check_tenancy
from gateway.config.reading.nearest import nearest, one_of
from gateway.config.schema.pools import ProcessPool
from gateway.config.schema.section import Fault

if TYPE_CHECKING:
    from gateway.config.config import Config


def cross_check(config: Config) -> list[Fault]:
    """Everything that is wrong between the sections, with places from the top of the file."""
    return [
        *_pool_names(config),
        *_default_pools(config),
        *_profiles(config),
        *_model_rules(config),
        *_ports(config),
        *_scrape_times(config),
        *check_tenancy(config),
    ]


def _pool_names(config: Config) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, pool in enumerate(config.pools):
        if pool.name in first:
            yield Fault(
                ("pools", index, "name"),
                "a name that no other pool has",
                hint=f"pools[{first[pool.name]}] has it already",
            )
        first.setdefault(pool.name, index)


def _default_pools(config: Config) -> Iterator[Fault]:
    defaults = [index for index, pool in enumerate(config.pools) if pool.default]
    for index in defaults[1:]:
        yield Fault(
            ("pools", index, "default"),
            "at most one default pool",
            hint=f"pools[{defaults[0]}] ({config.pools[defaults[0]].name}) is it already",
        )


def _profiles(config: Config) -> Iterator[Fault]:
    known = config.scheduling.profiles
    named: list[tuple[tuple[str | int, ...], str]] = [
        (("scheduling", "default_profile"), config.scheduling.default_profile)
    ]
    named += [
        (("pools", index, "profile"), pool.profile)
        for index, pool in enumerate(config.pools)
        if pool.profile is not None
    ]
    for at, name in named:
        if name not in known:
            yield Fault(
                at, f"a profile of scheduling.profiles: {one_of(known)}", hint=nearest(name, known)
            )


def _model_rules(config: Config) -> Iterator[Fault]:
    pools = {pool.name for pool in config.pools}
    rules: dict[str, int] = {}
    for index, rule in enumerate(config.models):
        if rule.name in rules:
            yield Fault(
                ("models", index, "name"),
                "one rule for each model name",
                hint=f"models[{rules[rule.name]}] has it already; put the targets into one rule",
            )
        rules.setdefault(rule.name, index)
    for index, rule in enumerate(config.models):
        at: tuple[str | int, ...] = ("models", index, "targets")
        if all(target.weight == 0 for target in rule.targets):
            yield Fault(at, "at least one target with a weight above 0", got="only weights of 0")
        for number, target in enumerate(rule.targets):
            if target.model == "*":
                yield Fault((*at, number, "model"), "the name of a model that replicas serve")
            elif target.model in rules and target.model != rule.name:
                yield Fault(
                    (*at, number, "model"),
                    "a model that replicas serve",
                    hint=f"{target.model} is a rule (models[{rules[target.model]}]) and rules "
                    "are not followed twice: name that rule's targets here",
                )
            if target.pool is not None and target.pool not in pools:
                yield Fault(
                    (*at, number, "pool"),
                    f"the name of a pool: {one_of(pools)}",
                    hint=nearest(target.pool, pools),
                )


@dataclass(frozen=True, slots=True)
class _Claim:
    at: tuple[str | int, ...]
    address: str
    ports: range

    def clashes(self, other: _Claim) -> bool:
        ours, theirs = ipaddress.ip_address(self.address), ipaddress.ip_address(other.address)
        same = ours == theirs or ours.is_unspecified or theirs.is_unspecified
        overlap = max(self.ports.start, other.ports.start) < min(self.ports.stop, other.ports.stop)
        return same and overlap

    def __str__(self) -> str:
        last = f" to {self.ports.stop - 1}" if len(self.ports) > 1 else ""
        return f"{self.address} port {self.ports.start}{last}"


def _claims(config: Config) -> Iterator[_Claim]:
    picker = config.picker
    if config.envoy.enabled:
        yield _Claim(("listen", "port"), config.listen.address, _only(config.listen.port))
    yield _Claim(("admin", "port"), config.admin.address, _only(config.admin.port))
    for key, listener in (
        ("ext_proc", picker.ext_proc),
        ("health", picker.health),
        ("metrics", picker.metrics),
    ):
        if listener.port is not None:
            yield _Claim(("picker", key, "port"), listener.address, _only(listener.port))
    for index, pool in enumerate(config.pools):
        if isinstance(pool, ProcessPool) and pool.ports:
            yield _Claim(("pools", index, "first_port"), pool.host, pool.ports)


def _only(port: int) -> range:
    return range(port, port + 1)


def _ports(config: Config) -> Iterator[Fault]:
    earlier: list[_Claim] = []
    for claim in _claims(config):
        for other in earlier:
            if claim.clashes(other):
                where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in other.at)
                yield Fault(
                    claim.at,
                    "a port that nothing else uses",
                    got=str(claim),
                    hint=f"{where.removeprefix('.')} has {other}",
                )
                break
        earlier.append(claim)


def _scrape_times(config: Config) -> Iterator[Fault]:
    scrape = config.picker.scrape
    slowest = max(scrape.interval_s, scrape.idle_interval_s)
    if scrape.stale_after_s <= slowest:
        yield Fault(
            ("picker", "scrape", "stale_after_s"),
            f"more than the time between two reads, {slowest:g}",
            hint="otherwise every replica is stale between two reads",
        )
