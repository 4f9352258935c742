"""``penstock lab tenants``."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from loadtests.lab.commands import options as given
from loadtests.lab.fairness.live import TwoTenants, run_all
from loadtests.lab.live import replicas as live_replicas
from loadtests.lab.live.replicas import Simulated
from loadtests.lab.summary import Figures
from loadtests.sim.model.profile import find
from loadtests.workloads.bodies import Api


def tenants(
    *,
    share: Annotated[
        float, typer.Option(help="Half of what the pool is able to, requests/s.", min=0.01)
    ],
    sends: Annotated[
        float, typer.Option(help="Of that, what the modest tenant sends.", min=0.01)
    ] = 0.5,
    times: Annotated[float, typer.Option(help="The same of the greedy one.", min=0.01)] = 10.0,
    prompt_tokens: Annotated[float, typer.Option(help="Mean.", min=1)] = 500.0,
    answer_tokens: Annotated[float, typer.Option(help="Mean.", min=1)] = 200.0,
    duration: Annotated[float, typer.Option(help="Seconds of sending.", min=11)] = 40.0,
    ttl: Annotated[float, typer.Option(help="Seconds in the queue, at most.", min=1)] = 20.0,
    client_timeout: Annotated[
        float, typer.Option(help="Seconds after which clients give up.", min=1)
    ] = 30.0,
    profile: Annotated[
        str, typer.Option(help="Of simulated replicas: built-in, or a file.")
    ] = "qwen3-8b-tp1-h100",
    replicas: Annotated[int, typer.Option(help="Simulated replicas to start.", min=1)] = 2,
    max_num_seqs: Annotated[int, typer.Option(help="Of them; as vLLM's.", min=1)] = 8,
    replica: Annotated[
        str, typer.Option(help="Instead: those that run, http://host:port,... (vLLM, say).")
    ] = "",
    api: Annotated[Api, typer.Option(help="Of the requests.")] = "completions",
    seed: Annotated[int, typer.Option(help="Of the requests.")] = 1,
) -> None:
    """What a tenant waits beside one that sends 10 times its share: through real gateways, with the
    queue and without it.

    Three runs one after the other, on the same replicas, with the same requests of the modest
    tenant.
    """
    with given.problems():
        running = live_replicas.addresses(replica) if replica else ()
        simulated = None
        if not running:
            limits = given.RunOptions(max_num_seqs=max_num_seqs, max_loras=0).limits(find(profile))
            simulated = Simulated(profile, limits, (), 1.0)
        plan = TwoTenants(
            per_s=sends * share,
            greedy_per_s=times * share,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            duration_s=duration,
            ttl_s=ttl,
            client_timeout_s=client_timeout,
            simulated=simulated,
            replicas=len(running) or replicas,
            given=running,
            api=api,
            seed=seed,
        )
        tell = partial(Console(stderr=True).print, markup=False, highlight=False, soft_wrap=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(run_all(plan, tell))
        print(f"| | {' | '.join(_HEAD)} |\n{'|---' * (len(_HEAD) + 1)}|")
        for situation, by_tenant in found:
            for tenant, each in by_tenant.items():
                print(f"| {situation.title} | {tenant} | {' | '.join(_cells(each))} |")


_HEAD = ("tenant", "requests", "answered", "TTFT p50 s", "p90 s", "p99 s", "tokens/s")


def _cells(found: Figures) -> tuple[str, ...]:
    times = (found.ttft_p50_s, found.ttft_p90_s, found.ttft_p99_s)
    tokens = found.input_tokens_per_s + found.output_tokens_per_s
    return (
        str(found.requests),
        str(found.requests - found.failed),
        *("-" if each is None else f"{each:.2f}" for each in times),
        f"{tokens:,.0f}",
    )
