"""Scheduling: the policies that rank the replicas of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from gateway.config.schema.fault import refuse
from gateway.config.schema.section import Section
from gateway.config.schema.terms import Name
from policies.routing.weighted import DEFAULT_PROFILE

BUILT_IN_PROFILE: Final = "default"


class Policy(Section):
    """A policy by its name in the registry, built in or from an installed package."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the policy in the registry."""
    params: Mapping[str, JsonValue] = {}
    """Parameters of the policy; each policy documents its own."""


class WeightedScorer(Policy):
    """A scorer and how much it counts."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of this scorer's score (0 to 1) in the sum. 0 switches it off."""


class Profile(Section):
    """How one replica is chosen: filters, then weighted scorers, then a picker; or one policy
    that does all of it (`policy`)."""

    filters: tuple[Policy, ...] = ()
    """Applied in this order; each removes some of the replicas."""
    scorers: tuple[WeightedScorer, ...] = ()
    """Each gives every remaining replica a score from 0 to 1; the weighted sum ranks them."""
    picker: Policy | None = None
    """Takes the best by the scores. Null: `max`, the highest score, ties at random."""
    policy: Policy | None = None
    """A whole routing policy instead of filters, scorers and picker."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.policy is not None and (self.filters or self.scorers or self.picker):
            raise refuse(
                "either `policy` alone, or `filters`, `scorers` and `picker`",
                got="`policy` beside the others",
            )
        if self.policy is None and not (self.scorers or self.picker):
            raise refuse("at least one scorer, a picker, or a `policy`", got="none of them")
        return self


BALANCED: Final = Profile.model_validate(DEFAULT_PROFILE, strict=False)
"""The built-in profile `default`."""


class Scheduling(Section):
    """How replicas are chosen."""

    default_profile: Name = BUILT_IN_PROFILE
    """Profile of the pools that name none."""
    profiles: Mapping[Name, Profile] = {BUILT_IN_PROFILE: BALANCED}
    """Profiles by name. `default` is built in; giving one of that name replaces it."""
    fallbacks: Annotated[int, Field(ge=0, le=7)] = 2
    """Further replicas named behind the first choice; Envoy tries them in this order when one
    cannot be reached."""

    @field_validator("profiles", mode="after")
    @classmethod
    def _with_built_in(cls, given: Mapping[str, Profile]) -> Mapping[str, Profile]:
        return {BUILT_IN_PROFILE: BALANCED} | dict(given)
