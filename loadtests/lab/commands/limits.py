"""``penstock lab limits``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final

import aiohttp
import orjson
import typer
from rich.console import Console

from loadtests.lab.commands import options as given
from loadtests.lab.limits import report, truth
from loadtests.lab.limits.drive import Api, Drive, Load
from loadtests.lab.limits.history import History
from loadtests.lab.limits.judge import Slack, judge
from loadtests.lab.limits.rules import Rule
from loadtests.lab.source import LabError

_WRONG: Final = 1
_NOT_JUDGED: Final = 2
_ESTIMATES: Final[Mapping[Api, float]] = {"completions": 1.0, "chat": 2.0}
_TOKEN: Final = "PENSTOCK_ADMIN_TOKEN"  # noqa: S105 - the variable's name
_NOTHING: Final = "no request was admitted: is the key right, and does the model exist?"


@dataclass(frozen=True, slots=True)
class LoadGiven:
    """How much is asked for."""

    seconds: Annotated[float, typer.Option(help="How long to send.", min=0.1)] = 20.0
    clients: Annotated[int, typer.Option(help="At the same time.", min=1, max=1000)] = 8
    requests: Annotated[int, typer.Option(help="At most.", min=1, max=20_000)] = 2_000
    prompt_tokens: Annotated[int, typer.Option(help="Of a prompt at most.", min=1)] = 20
    output_tokens: Annotated[int, typer.Option(help="Of an answer at most.", min=1)] = 32
    seed: Annotated[int, typer.Option(help="Of lengths and of who leaves.")] = 1


@dataclass(frozen=True, slots=True)
class SlackGiven:
    """What is not held against the gateway."""

    settle: Annotated[
        float, typer.Option(help="Seconds until unused tokens of an answer are back.", min=0)
    ] = 1.0
    lease: Annotated[float, typer.Option(help="The same for requests that broke off.", min=0)] = (
        60.0
    )
    estimate: Annotated[
        float | None,
        typer.Option(help="Prompts may be taken for so many times their length.", min=1),
    ] = None
    beyond: Annotated[
        float, typer.Option(help="Tokens over a limit that are allowed in all.", min=0)
    ] = 0.0
    rested: Annotated[
        bool,
        typer.Option(
            "--rested",
            help="Nothing of the limits is used at the start, even if the gateway does not say.",
        ),
    ] = False


@given.bundled
def limits(
    *,
    target: Annotated[
        list[str],
        typer.Option(help="Base URL; repeat for gateways that share limits.", show_default=False),
    ],
    model: Annotated[str, typer.Option(help="To ask for.", show_default=False)],
    limit: Annotated[
        list[str],
        typer.Option(
            help="COUNT:AMOUNT/PERIOD that all requests count against, say"
            " total_tokens:2000/minute; :burst=500 or :calendar behind it. Repeatable.",
            show_default=False,
        ),
    ],
    key: Annotated[
        list[str] | None,
        typer.Option(help="API key; repeat for several that share the limits."),
    ] = None,
    api: Annotated[
        Api, typer.Option(help="completions: prompts are token ids. chat: text.")
    ] = "completions",
    load: LoadGiven,
    replica: Annotated[
        str,
        typer.Option(
            help="Simulated replicas behind it, http://host:port,...: asked what they made."
        ),
    ] = "",
    admin: Annotated[
        str, typer.Option(help="Penstock's admin API: what it charged is compared as well.")
    ] = "",
    tenant: Annotated[str, typer.Option(help="Of the keys, for --admin.")] = "",
    slack: SlackGiven,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON.")] = False,
) -> None:
    """Whether a gateway's token limits hold, by load with answers of known lengths.

    Compares what clients saw with what replicas generated: tokens over a limit, lost or counted
    twice, refusals that had no reason, Retry-After that is not true. Nobody else may use the keys
    meanwhile. What is left at the start is read from x-ratelimit-remaining-*; without it refusals
    can be judged only later, or with --rested. Ends with 0 when they hold, 1 when they
    do not, 2 when nothing could be judged.
    """
    try:
        rules = [Rule.parse(text) for text in limit]
        estimate = slack.estimate or _ESTIMATES[api]
        planned = Load(
            targets=target,
            keys=key or (),
            model=model,
            api=api,
            clients=load.clients,
            requests=load.requests,
            duration_s=load.seconds,
            prompt_tokens=load.prompt_tokens,
            output_tokens=load.output_tokens,
            estimate=estimate,
            seed=load.seed,
        )
        replicas = [url for url in replica.split(",") if url]
        history = asyncio.run(_run(planned, replicas, admin, tenant, slack.settle))
    except KeyboardInterrupt:
        given.fail("stopped", code=130)
    except ValueError as error:
        given.fail(str(error), code=_NOT_JUDGED)
    allowed = Slack(
        settle_s=slack.settle,
        lease_s=slack.lease,
        tokens=slack.beyond,
        exact_prompts=planned.estimate == 1.0,
    )
    verdict = judge(replace(history, rested=slack.rested), rules, allowed)
    if as_json:
        print(orjson.dumps(report.document(verdict), option=orjson.OPT_INDENT_2).decode())
    else:
        console = given.console()
        console.print(report.table(verdict))
        console.print(report.sentence(verdict), highlight=False)
    if not verdict.admitted:
        given.fail(_NOTHING, code=_NOT_JUDGED)
    if not verdict.ok:
        raise typer.Exit(_WRONG)


async def _run(
    load: Load, replicas: list[str], admin: str, tenant: str, settle_s: float
) -> History:
    token = os.environ.get(_TOKEN)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    for replica in replicas:  # before the load, not after
        await truth.generated([replica])
    before = await truth.charged(admin, headers, tenant) if admin else 0
    with Console(stderr=True).status(f"{load.clients} clients for {load.duration_s:g} s"):
        try:
            seen = await Drive(load).run()
        except* aiohttp.InvalidURL as group:
            raise LabError(f"--target: {group.exceptions[0]} is no URL") from group
    charged = None
    if admin:
        after = await truth.charged_at_rest(admin, headers, tenant, quiet_s=settle_s)
        charged = after - before
    return History(seen, await truth.generated(replicas), charged)
