"""Checks that the policies a configuration names exist and take the parameters given."""

from __future__ import annotations

from collections.abc import Iterator

import policies.routing  # noqa: F401 - registers the built-in policies
from gateway.config.checks.nearest import nearest
from gateway.config.schema.fault import Fault, Location
from gateway.config.schema.scheduling import BUILT_IN, Policy, Profile
from gateway.config.schema.sections import Sections
from policies import registry


def check_policies(config: Sections) -> Iterator[Fault]:
    """Build every policy once: a fault for each that the registry refuses.

    Plugins must have been loaded (`policies.registry.load_plugins`).
    """
    for name, profile in config.scheduling.profiles.items():
        if BUILT_IN.get(name) == profile:
            continue
        for at, kind, policy in _policies(("scheduling", "profiles", name), profile):
            try:
                registry.build(kind, policy.name, policy.params)
            except registry.PolicyError as error:
                yield _refused(at, kind, policy, error)


def _policies(
    at: Location, profile: Profile
) -> Iterator[tuple[Location, registry.PartKind, Policy]]:
    for index, item in enumerate(profile.filters):
        yield (*at, "filters", index), "filter", item
    for index, scorer in enumerate(profile.scorers):
        yield (*at, "scorers", index), "scorer", scorer
    if profile.picker is not None:
        yield (*at, "picker"), "picker", profile.picker
    if profile.policy is not None:
        yield (*at, "policy"), "policy", profile.policy


def _refused(
    at: Location, kind: registry.PartKind, policy: Policy, error: registry.PolicyError
) -> Fault:
    known = registry.names(kind)
    if policy.name not in known:
        expected = f"a {kind}: one of {', '.join(known)}"
        return Fault((*at, "name"), expected, hint=nearest(policy.name, known))
    return Fault((*at, "params") if policy.params else at, str(error))
