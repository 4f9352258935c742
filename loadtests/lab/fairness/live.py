"""Two tenants in front of one pool, through real gateways: what one waits for the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from loadtests.lab.live import gateways, replicas
from loadtests.lab.live.client import LoadClient
from loadtests.lab.live.replicas import ReplicaFleet, Simulated
from loadtests.lab.live.target import Target, TargetKind
from loadtests.lab.outcome import Outcome
from loadtests.lab.source import LabError
from loadtests.lab.summary import Figures, Slo, Window, figures
from loadtests.workloads.bodies import TENANT_HEADER, Api
from loadtests.workloads.conversations import Conversations
from loadtests.workloads.lengths import Length
from loadtests.workloads.streams import Stream, Streams

MODEST, GREEDY = "modest", "greedy"
_BEGINS_S: Final = 5.0
"""When the greedy tenant begins."""
_SETTLED_S: Final = 10.0
"""Time after which the pool is as it stays."""
_SHORT_PATH: Final = "/tmp"  # noqa: S108 - a folder of our own is made in it


@dataclass(frozen=True, slots=True)
class TwoTenants:
    """What is sent, and to what. Times are wall seconds."""

    per_s: float
    """Requests of the modest tenant, a second."""
    greedy_per_s: float
    prompt_tokens: float
    answer_tokens: float
    duration_s: float
    ttl_s: float
    """Longest wait in the queue."""
    client_timeout_s: float
    simulated: Simulated | None
    replicas: int
    given: tuple[str, ...] = ()
    """Addresses of replicas that run already."""
    api: Api = "completions"
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Situation:
    """One of the runs."""

    title: str
    greedy: bool
    queue: bool


SITUATIONS: Final = (
    Situation("alone", greedy=False, queue=True),
    Situation("beside, with the queue", greedy=True, queue=True),
    Situation("beside, without it", greedy=True, queue=False),
)


async def run_all(
    plan: TwoTenants, tell: Callable[[str], None]
) -> Sequence[tuple[Situation, dict[str, Figures]]]:
    """The figures of each tenant in each situation. Raises LabError."""
    async with AsyncExitStack() as stack:
        files = tempfile.TemporaryDirectory(prefix="pst-lab-", dir=_SHORT_PATH)
        folder = Path(stack.enter_context(files))
        http = await stack.enter_async_context(LoadClient.session())
        if plan.simulated is None:
            fleet = ReplicaFleet(http, plan.given)
        else:
            started = replicas.started(plan.simulated, plan.replicas, folder, http)
            fleet = await stack.enter_async_context(started)
        served = await fleet.models()
        if not served:
            raise LabError("the replicas serve no model")
        found: list[tuple[Situation, dict[str, Figures]]] = []
        for number, situation in enumerate(SITUATIONS):
            tell(situation.title)
            own = folder / f"run-{number}"
            own.mkdir()
            found.append((situation, await _run(plan, situation, fleet, served[0], own, http)))
        return found


async def _run(
    plan: TwoTenants,
    situation: Situation,
    fleet: ReplicaFleet,
    model: str,
    folder: Path,
    http: aiohttp.ClientSession,
) -> dict[str, Figures]:
    target = Target(TargetKind.PENSTOCK, situation.title)
    await fleet.idle()
    await fleet.forget()
    changed = _changed(plan, situation, fleet)
    async with gateways.started(target, fleet.addresses, folder, http, changed) as gateway:
        client = LoadClient(
            http,
            gateway.url,
            _streams(plan, situation).traffic(),
            model=model,
            api=plan.api,
            time_scale=1.0,
            timeout_s=plan.client_timeout_s,
        )
        sent = await client.run()
    window = Window(_SETTLED_S, plan.duration_s)
    return {
        tenant: figures(Outcome(mine), window, Slo())
        for tenant in (MODEST, GREEDY)
        if (mine := [each for each in sent.served if each.tenant == tenant])
    }


def _changed(plan: TwoTenants, situation: Situation, fleet: ReplicaFleet) -> dict[str, object]:
    pool = {"name": "lab", "type": "static", "endpoints": list(fleet.addresses), "default": True}
    return {
        "pools": [{**pool, "queue": situation.queue}],
        "flow": {"ttl_s": plan.ttl_s},
        "identity": {
            "api_keys": False,
            "trusted_headers": {"tenant": TENANT_HEADER},
            "anonymous": MODEST,  # who asks whether the gateway is ready
        },
        "tenants": [{"name": MODEST}, {"name": GREEDY}],
    }


def _streams(plan: TwoTenants, situation: Situation) -> Streams:
    streams = [Stream(MODEST, _chats(plan, MODEST), plan.per_s)]
    if situation.greedy:
        streams.append(Stream(GREEDY, _chats(plan, GREEDY), plan.greedy_per_s, _BEGINS_S))
    return Streams(streams, seed=plan.seed, duration_s=plan.duration_s)


def _chats(plan: TwoTenants, name: str) -> Conversations:
    def around(mean: float) -> Length:
        return Length("lognormal", mean, 0.6 * mean, max(1.0, 0.2 * mean), 3.0 * mean)

    return Conversations(
        name=name,
        seed=plan.seed,
        turns=Length.fixed(1),
        ask_tokens=around(plan.prompt_tokens),
        answer_tokens=around(plan.answer_tokens),
    )
