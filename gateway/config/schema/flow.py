"""Flow control: requests that wait for a pool which could not begin them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from gateway.config.schema.fault import Fault, repeats
from gateway.config.schema.section import Section
from gateway.config.schema.terms import Count, Name, Priority, Seconds


class Objective(Section):
    """What a request is served under that names it in `x-gateway-inference-objective` (or
    `x-llm-d-inference-objective`) and is trusted to: see `flow.trust_headers`."""

    name: Name
    """Name of the objective, unique."""
    priority: Priority = 0
    """Priority class of these requests, in place of their tenant's."""
    ttft_s: Seconds | None = None
    """Time from arrival in which the first token is wanted, seconds: of a tenant's requests that
    wait, the one whose time ends first goes first. Null: none; by arrival, after those with one."""


class FlowClass(Section):
    """What holds for the requests of one priority."""

    priority: Priority
    """The class: requests whose plan, tenant or objective gives them this priority."""
    max_requests: Count | None = None
    """Requests of this class that wait for a pool, at most, in each picker worker. One more, and
    the newest leaves of the tenant that has most waiting in it for its weight. Null: it may fill
    the queue, and what is of a higher class takes its place then."""
    max_tokens: Count | None = None
    """The same for their tokens: prompts and expected output."""
    ttl_s: Annotated[float, Field(gt=0, le=1800)] | None = None
    """Longest time that a request of this class waits, seconds, bounded as `flow.ttl_s` is. Null:
    `flow.ttl_s`, and below priority 0 `flow.sheddable_ttl_s`."""


class Flow(Section):
    """The queue in front of each pool. A request that a replica would begin at once passes it by.
    Every other one waits here, not in an engine: by priority, among tenants of the same priority by
    what they were served, and in a tenant by objective and arrival. There is nothing to set:
    when a pool is full is learned from its replicas."""

    ttl_s: Annotated[float, Field(gt=0, le=1800)] = 45.0
    """Longest time that a request waits, seconds; then it gets 429. It is always at least a second
    below `listen.upload_idle_timeout_s`: Envoy ends a request on which nothing moves for that long.
    Somebody else's gateway may wait less: see `picker.ext_proc.message_timeout_s`."""
    sheddable_ttl_s: Annotated[float, Field(gt=0, le=1800)] = 15.0
    """The same for requests with a priority below 0, if it is shorter. They are also shed: the
    larger a part of this time they would have to wait, the more of them are refused at once."""
    max_requests: Count = 10_000
    """Requests that wait for a pool, at most, in each picker worker. One more, and the newest
    leaves of the tenant that has most waiting for its weight, in the lowest priority."""
    max_tokens: Count = 50_000_000
    """The same for their tokens: prompts and expected output."""
    aging_s: Seconds = 5.0
    """Requests of a priority that have waited for so long, seconds, get a twentieth of what higher
    ones get; not those below 0 of what is for the others."""
    classes: tuple[FlowClass, ...] = ()
    """Bounds and times of single priorities, where these are to be others."""
    evict_for: Priority | None = None
    """Requests of this priority or a higher one that would have to wait may end others: one with a
    priority below 0 that is under way and whose answer has not begun gets 429 with the reason
    `evicted`, and its engine stops working on it. A stream begins with its headers, which engines
    send at once, so it is mostly whole answers that can be ended. Null: nothing under way is
    ended."""
    objectives: tuple[Objective, ...] = ()
    """Objectives that trusted requests may name."""
    trust_headers: bool = False
    """Take the word of every request for its objective, and for the flow that it belongs to
    (`x-gateway-inference-fairness-id` or `x-llm-d-inference-fairness-id`): for a gateway whose
    clients are yours, or behind a proxy that sets or removes these headers. false: only tenants
    with `flow_headers` are trusted."""

    @property
    def longest_ttl_s(self) -> float:
        """How long a request of any class may wait."""
        return max(self.ttl_s, *(one.ttl_s or 0.0 for one in self.classes), 0.0)

    def faults(self) -> Iterator[Fault]:
        """The names of objectives, and the priorities of classes."""
        for index, first in repeats(one.priority for one in self.classes):
            yield Fault(
                ("classes", index, "priority"),
                "a priority that no other class has",
                hint=f"classes[{first}] has it already",
            )
        for index, first in repeats(one.name for one in self.objectives):
            yield Fault(
                ("objectives", index, "name"),
                "a name that no other objective has",
                hint=f"objectives[{first}] has it already",
            )
