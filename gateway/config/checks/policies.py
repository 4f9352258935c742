"""Checks that the policies a configuration names exist and take the parameters given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import policies.routing  # noqa: F401 - registers the built-in policies
from gateway.config.config import Config
from gateway.config.reading.nearest import nearest
from gateway.config.reading.problems import Problem
from gateway.config.reading.source import Location, Place, Source
from gateway.config.schema.scheduling import (
    BALANCED,
    BUILT_IN_PROFILE,
    Policy,
    Profile,
)
from policies import registry


def check_policies(config: Config, source: Source | None = None) -> list[Problem]:
    """Build every policy once, and tell what the registry refuses.

    Plugins must have been loaded (`policies.registry.load_plugins`). Without ``source`` the
    problems have key paths, but no lines.
    """
    return [
        problem
        for name, profile in config.scheduling.profiles.items()
        if not (name == BUILT_IN_PROFILE and profile == BALANCED)
        for at, kind, policy in _policies(("scheduling", "profiles", name), profile)
        if (problem := _built(source, at, kind, policy)) is not None
    ]


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


def _built(
    source: Source | None, at: Location, kind: registry.PartKind, policy: Policy
) -> Problem | None:
    known = registry.names(kind)
    try:
        registry.build(kind, policy.name, policy.params)
    except registry.PolicyError as error:
        if policy.name not in known:
            at = (*at, "name")
            expected, hint = f"a {kind}: one of {', '.join(known)}", nearest(policy.name, known)
        else:
            at = (*at, "params") if policy.params else at
            expected, hint = str(error), None
    else:
        return None
    if source is None:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
        return Problem(Path("-"), 0, 0, key.removeprefix("."), policy.name, expected, hint)
    place: Place = source.place(at)
    return Problem(
        source.file, place.line, place.column, source.key_path(at), place.value, expected, hint
    )
