"""Scheduling: the policies that rank the replicas of a pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from pydantic import Field, JsonValue, field_validator

from gateway.config.schema.fault import Fault
from gateway.config.schema.section import Section
from gateway.config.schema.terms import Name, Seconds
from policies.routing.weighted import DEFAULT_PROFILE

BUILT_IN_PROFILE: Final = "auto"


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

    def faults(self) -> Iterator[Fault]:
        """Whether it is given in one way."""
        if self.policy is not None and (self.filters or self.scorers or self.picker):
            yield Fault(
                (),
                "either `policy` alone, or `filters`, `scorers` and `picker`",
                got="`policy` beside the others",
            )
        if self.policy is None and not (self.scorers or self.picker):
            yield Fault((), "at least one scorer, a picker, or a `policy`", got="none of them")


BALANCED: Final = Profile.model_validate(DEFAULT_PROFILE, strict=False)
"""The built-in profile `weighted`."""

BUILT_IN: Final[Mapping[str, Profile]] = {
    BUILT_IN_PROFILE: Profile(policy=Policy(name="auto")),
    "weighted": BALANCED,
}
"""Profiles that are there without being given."""


class Breaker(Section):
    """The circuit breaker of each replica and model: what fails gets no requests for a while, then
    a few, and all of them again when these succeed. Failures are answers with a status of 500 or
    more, 429, errors in place of an answer, broken connections and silence; not what is wrong with
    a request (400, 413, 422 and the like). When every replica that could serve is left out, all of
    them are tried."""

    enabled: bool = True
    """false: replicas are left out only when they cannot be reached."""
    consecutive_failures: Annotated[int, Field(ge=1)] = 5
    """It opens after so many failures without a success between them."""
    failure_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """It opens when this share of the requests within `window_s` has failed."""
    min_requests: Annotated[int, Field(ge=1)] = 20
    """Requests within `window_s` below which the share says nothing."""
    window_s: Seconds = 30.0
    """Time over which the share is taken, seconds."""
    open_s: Seconds = 5.0
    """Time for which it is open, seconds; twice as long each time that it opens again."""
    max_open_s: Seconds = 120.0
    """Longest time for which it is open, seconds."""
    probes: Annotated[int, Field(ge=1)] = 2
    """Requests at a time that are let through after that, by each picker worker; so many
    successes close it, one failure opens it again."""

    def faults(self) -> Iterator[Fault]:
        """The order of the times."""
        if self.max_open_s < self.open_s:
            yield Fault(("max_open_s",), f"at least open_s, {self.open_s:g}")


class Scheduling(Section):
    """How replicas are chosen."""

    default_profile: Name = BUILT_IN_PROFILE
    """Profile of the pools that name none."""
    profiles: Mapping[Name, Profile] = BUILT_IN
    """Profiles by name. `auto` and `weighted` are built in; giving one of that name replaces it."""
    fallbacks: Annotated[int, Field(ge=0, le=7)] = 2
    """Further replicas named behind the first choice; Envoy tries them in this order when one
    cannot be reached, or fails before the first byte of its answer. A request that has broken two
    replicas is not tried on a third."""
    breaker: Breaker = Breaker()
    """When replicas that fail are left out."""
    decision_headers: bool = False
    """Responses say in `x-penstock-endpoint` which replica has served, and in
    `x-penstock-predicted-ttft-ms` when its policy expected the first token, milliseconds after the
    request's arrival (missing where another one than the first choice has served). Every client
    sees the addresses of replicas then."""

    @field_validator("profiles", mode="after")
    @classmethod
    def _with_built_in(cls, given: Mapping[str, Profile]) -> Mapping[str, Profile]:
        return {**BUILT_IN, **given}
