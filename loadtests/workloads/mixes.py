"""Several workloads at once: tenants with different habits on one pool."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from loadtests.workloads.sessions import Session, Workload


@dataclass(frozen=True, slots=True)
class Share:
    """One tenant's part of the traffic."""

    tenant: str
    weight: float
    """Of the sessions that begin, relative to the other tenants' weights."""
    workload: Workload


@dataclass(frozen=True, slots=True)
class TenantMix:
    """Each session belongs to a tenant drawn by weight. Nothing is shared between tenants."""

    name: str
    seed: int
    shares: tuple[Share, ...]

    def session(self, index: int) -> Session:
        """The session number ``index``; raises IndexError when its workload has no such session."""
        rng = random.Random(f"{self.name}/{self.seed}/{index}")
        weights = [share.weight for share in self.shares]
        share = rng.choices(self.shares, weights)[0]
        return replace(share.workload.session(index), tenant=share.tenant)
