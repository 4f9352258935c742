"""``penstock lab parity``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import aiohttp
import orjson
import typer
from rich.table import Table

from loadtests.lab.commands import options as given
from loadtests.lab.parity import asks, comparison, http, virtual
from loadtests.lab.parity.recording import ParityError, Recording
from loadtests.sim.model.scheduler import EngineLimits

Url = Annotated[str, typer.Option(help="Of a vLLM server that nobody else uses.")]
Events = Annotated[str, typer.Option(help="Where it publishes KV events: tcp://HOST:PORT.")]


def main(
    real: Url,
    max_num_seqs: Annotated[int, typer.Option(help="That both were started with.", min=1)],
    max_num_batched_tokens: Annotated[int, typer.Option(help="As --max-num-seqs.", min=1)],
    real_events: Events = "",
    simulated: Annotated[
        str, typer.Option(help="URL of a simulated replica; left out: the model, without HTTP.")
    ] = "",
    simulated_events: Events = "",
    long_prefill_token_threshold: Annotated[
        int, typer.Option(help="As --max-num-seqs.", min=0)
    ] = 0,
    async_scheduling: Annotated[
        bool, typer.Option(help="Whether real vLLM schedules ahead; never on the CPU.")
    ] = False,
    requests: Annotated[int, typer.Option(help="How many.", min=1)] = 300,
    seed: Annotated[int, typer.Option(help="Of the requests.")] = 1,
    json: Annotated[Path | None, typer.Option(help="File for the result, JSON.")] = None,
) -> None:
    """Send the same requests to real vLLM and to the simulator, and say where they differ.

    Cached tokens of each request, order of admission, preemptions, evictions. Real vLLM needs
    VLLM_SERVER_DEV_MODE=1 and --enable-prompt-tokens-details, and a small --num-gpu-blocks-override
    so that there is something to compare; KV events tell the order of admission. Ends with 1 when
    there is a difference that nothing explains.
    """
    with given.problems():
        if json is not None:
            given.writable(json, "--json")
        servers = (
            http.ParityServer(real, real_events or None),
            http.ParityServer(simulated, simulated_events or None),
        )
        limits = EngineLimits(
            num_blocks=1 << 20,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            long_prefill_token_threshold=long_prefill_token_threshold,
            async_scheduling=async_scheduling,
        )
        try:
            recordings, parity = asyncio.run(_compared(*servers, limits, requests, seed))
        except (aiohttp.ClientError, TimeoutError) as error:
            given.fail(f"{type(error).__name__}: {error}")
    given.console().print(table_of(parity))
    if json is not None:
        document = {"parity": parity.document()}
        document |= {one.who: one.document() for one in recordings}
        json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    if not parity.holds:
        given.fail("the simulator does not do what real vLLM does")


def table_of(parity: comparison.Parity) -> Table:
    """The result in a few lines, for people."""
    table = Table("", "real", "simulated")
    table.add_row("requests", str(parity.requests), str(parity.requests))
    table.add_row("equal cached tokens", str(parity.equal), str(parity.equal))
    for reason in comparison.Cause:
        count = sum(each.reason is reason for each in parity.differences)
        table.add_row(f"different: {reason.value}", str(count), str(count))
    table.add_row("tokens found cached", *map(str, parity.hit_tokens))
    table.add_row("preemptions", *map(str, parity.preemptions))
    table.add_row("evicted blocks", *("?" if n is None else str(n) for n in parity.evicted_blocks))
    order = "not told"
    if parity.ordered:
        differs = parity.order_differs
        order = f"same ({parity.ordered})" if differs is None else differs.value
    table.add_row("order of admission", order, order)
    return table


async def _compared(
    real: http.ParityServer,
    simulated: http.ParityServer,
    limits: EngineLimits,
    requests: int,
    seed: int,
) -> tuple[tuple[Recording, Recording], comparison.Parity]:
    facts = await http.facts_of(real)
    limits = replace(
        limits,
        num_blocks=facts.num_blocks,
        block_size_tokens=facts.block_size_tokens,
        max_model_len=facts.max_model_len,
    )
    bursts = asks.make(requests, seed, limits)
    recorded = await http.record(real, facts, bursts, who="real")
    if simulated.url:
        other = await http.facts_of(simulated)
        if other.block_size_tokens != facts.block_size_tokens:
            raise ParityError(
                f"blocks have {facts.block_size_tokens} tokens in one and "
                f"{other.block_size_tokens} in the other"
            )
        answer = await http.record(
            simulated, other, bursts, who="simulated", like=recorded, under_way=1
        )
    else:
        answer = virtual.replay(bursts, limits, recorded, who="simulated")
    return (recorded, answer), comparison.compare(recorded, answer, bursts, limits)
