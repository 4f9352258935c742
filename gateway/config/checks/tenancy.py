"""Checks of tenants, plans, keys and limits against the rest of the configuration."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from gateway.config.checks.nearest import nearest, one_of
from gateway.config.schema.fault import Fault, Location, repeats
from gateway.config.schema.limit import Limit
from gateway.config.schema.sections import Sections
from gateway.config.schema.tenancy import Tenant


def check_tenancy(config: Sections) -> Iterator[Fault]:
    """Everything that is wrong, with locations from the top of the file."""
    yield from _admin(config)
    if not config.has_tenants:
        return
    yield from _names(config)
    yield from _identity(config)
    yield from _keys(config)
    for index, plan in enumerate(config.plans):
        yield from limit_faults(config, plan.limits, ("plans", index))
    for index, tenant in enumerate(config.tenants):
        yield from tenant_faults(config, tenant, ("tenants", index))
    yield from _pickers(config)


def tenant_faults(config: Sections, tenant: Tenant, at: Location = ()) -> Iterator[Fault]:
    """What is wrong with a tenant in this configuration, with locations below ``at``."""
    plans = [plan.name for plan in config.plans]
    if tenant.plan is not None and tenant.plan not in plans:
        yield _no_plan((*at, "plan"), tenant.plan, plans)
    yield from limit_faults(config, tenant.limits, at)
    for index, key in enumerate(tenant.keys):
        yield from limit_faults(config, key.limits, (*at, "keys", index))


def limit_faults(config: Sections, limits: Sequence[Limit], at: Location = ()) -> Iterator[Fault]:
    """What is wrong with limits in this configuration, with locations below ``at``."""
    pools = [pool.name for pool in config.pools]
    priced = config.pricing is not None and bool(config.pricing.models)
    for index, limit in enumerate(limits):
        where = (*at, "limits", index)
        for number, pool in enumerate(limit.pools):
            if pool not in pools:
                yield Fault(
                    (*where, "pools", number),
                    f"the name of a pool: {one_of(pools)}",
                    hint=nearest(pool, pools),
                )
        if limit.count == "cost" and not priced:
            yield Fault(
                (*where, "count"),
                "prices in pricing.models, or something else to count",
                got="cost",
                hint="without prices every request costs nothing",
            )


def _admin(config: Sections) -> Iterator[Fault]:
    admin = config.admin
    if admin.token is None:
        if not ipaddress.ip_address(admin.address).is_loopback:
            yield Fault(
                ("admin", "address"),
                "a loopback address, or `token` beside it",
                hint="other machines reach this address: whoever can connect could make API keys",
            )
        return
    try:
        token = admin.token.reveal()
    except LookupError:  # a configuration made by hand
        return
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        yield Fault(
            ("admin", "token"),
            "at least 16 printable ASCII characters without spaces",
            got="a value that is not shown",
            hint="openssl rand -hex 32 makes a good one",
        )


def _names(config: Sections) -> Iterator[Fault]:
    for kind, names in (
        ("plans", [plan.name for plan in config.plans]),
        ("tenants", [tenant.name for tenant in config.tenants]),
    ):
        for index, first in repeats(names):
            yield Fault(
                (kind, index, "name"),
                f"a name that no other {kind.removesuffix('s')} has",
                hint=f"{kind}[{first}] has it already",
            )


def _keys(config: Sections) -> Iterator[Fault]:
    ids: dict[str, str] = {}
    digests: dict[bytes, str] = {}
    for index, tenant in enumerate(config.tenants):
        if tenant.keys and not config.identity_in_force.api_keys:
            yield Fault(
                ("tenants", index, "keys"),
                "no keys, because identity.api_keys is false",
                hint="nobody would be asked for them",
            )
        for number, key in enumerate(tenant.keys):
            at: Location = ("tenants", index, "keys", number)
            here = f"tenants[{index}].keys[{number}]"
            if key.id in ids:
                yield Fault(
                    (*at, "id"),
                    "an id that no other key of any tenant has",
                    hint=f"{ids[key.id]} has it already",
                )
            ids.setdefault(key.id, here)
            try:
                digest = key.digest
            except LookupError:  # a configuration made by hand
                continue
            if digest in digests:
                yield Fault(
                    (*at, "sha256"),
                    "the hash of another key",
                    got="a hash that is there twice",
                    hint=f"{digests[digest]} has it already",
                )
            digests.setdefault(digest, here)


def _identity(config: Sections) -> Iterator[Fault]:
    identity = config.identity
    if identity is None:
        if not config.plans and not config.tenants:
            yield Fault(
                ("pricing",),
                "`identity` beside it, which says who is let in",
                hint="identity: {api_keys: true} asks for API keys",
            )
        return
    tenants = [tenant.name for tenant in config.tenants]
    plans = [plan.name for plan in config.plans]
    if identity.anonymous is not None and identity.anonymous not in tenants:
        yield Fault(
            ("identity", "anonymous"),
            f"the name of a tenant in this file: {one_of(tenants)}",
            hint=nearest(identity.anonymous, tenants)
            or "its plan and limits hold for everybody without identity",
        )
    if identity.unknown_tenants is not None and identity.unknown_tenants not in plans:
        yield _no_plan(("identity", "unknown_tenants"), identity.unknown_tenants, plans)
    if identity.jwt is not None and not config.envoy.enabled:
        yield Fault(
            ("identity", "jwt"),
            "envoy.enabled: true beside it",
            hint="tokens are verified by Penstock's Envoy; with somebody else's gateway, let that "
            "verify them and set trusted_headers",
        )


def _no_plan(at: Location, name: str, plans: Sequence[str]) -> Fault:
    return Fault(at, f"the name of a plan: {one_of(plans)}", hint=nearest(name, plans))


def _pickers(config: Sections) -> Iterator[Fault]:
    if config.picker.workers > 1 and config.limits.store == "memory":
        yield Fault(
            ("limits", "store"),
            "{redis: {url: ...}}, because there are several pickers",
            got="memory, which each picker would have for itself",
            hint=f"picker.workers is {config.picker.workers}: each would admit the whole of every "
            "limit",
        )
    if config.picker.failure_mode == "open" and config.identity_in_force.anonymous is None:
        yield Fault(
            ("picker", "failure_mode"),
            "closed, because requests need an identity",
            hint="open lets everybody in while no picker answers; with identity.anonymous it may "
            "stand",
        )
