"""``penstock lab``: found by the command through the entry points ``penstock.commands``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from loadtests.lab import choices, report
from loadtests.lab.experiment import Experiment, Run
from loadtests.lab.result import dumped
from loadtests.lab.size import Trial, sizing_document, sizing_sentences, smallest_fleet
from loadtests.lab.source import Extent, LabError, Level, LevelKind, Source
from loadtests.lab.summary import Cut, Slo
from loadtests.lab.sweep import Bar, bars, cores, sweep
from loadtests.sim.model import fit
from loadtests.sim.model.profile import built_in, built_in_names
from loadtests.workloads.catalogue import CATALOGUE, LORA_SLOTS
from policies import registry

app = typer.Typer(
    help="Compare routing policies and size fleets in simulation: no GPU, no time to wait.",
    no_args_is_help=True,
    add_completion=False,
)

Workload = Annotated[
    str,
    typer.Option(
        help="Of the catalogue (penstock lab workloads), or trace:PATH.", show_default=False
    ),
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile", help="Built-in (penstock lab profiles), or a file.", show_default=False
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(help="Seconds of sending (virtual). Rates: 600 when left out.", min=0.001),
]
Requests = Annotated[int | None, typer.Option(help="Requests at most.", min=1)]
Seeds = Annotated[int, typer.Option(help="Runs of each, with the seeds from 1 on.", min=1)]
Jobs = Annotated[int | None, typer.Option(help="Runs at a time; the cores when left out.", min=1)]
SloTtft = Annotated[float, typer.Option(help="Longest good time to first token, s.", min=0)]
SloTpot = Annotated[float, typer.Option(help="Longest good time per output token, s.", min=0)]
WarmUp = Annotated[float, typer.Option(help="Share of the time that figures leave out first.")]
CoolDown = Annotated[float, typer.Option(help="Share of the requests that they leave out last.")]
BatchedTokens = Annotated[int, typer.Option(help="As vLLM's.", min=1)]
NumSeqs = Annotated[int, typer.Option(help="As vLLM's.", min=1)]
ModelLen = Annotated[int, typer.Option(help="As vLLM's, shortened to what fits.", min=2)]
Loras = Annotated[int, typer.Option(help="LoRA slots of a replica.", min=0)]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds after which clients give up; never when left out.")
]
Speed = Annotated[str, typer.Option(help="Of a trace, as times recorded: 1,2,4.")]
Rate = Annotated[str, typer.Option(help="Open loop, requests/s: 5,10 or 5:30:5 (a step of 5).")]
Concurrency = Annotated[str, typer.Option(help="Closed loop, clients: as --rate.")]

app.command("fit")(fit.main)


@app.command()
def sim(
    workload: Workload,
    policies: Annotated[
        str,
        typer.Option(
            help="Names (penstock lab policies), with parameters as name:{json}.",
            show_default=False,
        ),
    ],
    profile: ProfileName,
    replicas: Annotated[str, typer.Option(help="Sizes of the fleet: 8 or 4,8,16.")] = "8",
    rate: Rate = "",
    concurrency: Concurrency = "",
    speed: Speed = "",
    duration: Duration = None,
    requests: Requests = None,
    seeds: Seeds = 3,
    slo_ttft: SloTtft = 2.0,
    slo_tpot: SloTpot = 0.05,
    warm_up: WarmUp = 0.2,
    cool_down: CoolDown = 0.1,
    max_num_batched_tokens: BatchedTokens = 8192,
    max_num_seqs: NumSeqs = 256,
    max_model_len: ModelLen = 131_072,
    max_loras: Loras = LORA_SLOTS,
    client_timeout: Timeout = None,
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for index.html, result.json and plots.")
    ] = None,
) -> None:
    """Compare routing policies under a workload, in virtual time.

    Without --rate, --concurrency or --speed the load is the one that the catalogue gives the
    workload. The same seeds give the same result, whatever --jobs is.
    """
    with _problems():
        registry.load_plugins()
        source = Source.parse(workload)
        chip = choices.profile(profile)
        experiment = Experiment(
            source,
            _levels(source, rate, concurrency, speed),
            choices.policies(policies),
            choices.sizes(replicas, "--replicas"),
            chip,
            choices.limits(
                chip,
                max_num_batched_tokens=max_num_batched_tokens,
                max_num_seqs=max_num_seqs,
                max_model_len=max_model_len,
                max_loras=max_loras,
            ),
            seeds,
            Slo(slo_ttft, slo_tpot),
            Cut(warm_up, cool_down),
            Extent(duration, requests),
            client_timeout_s=client_timeout,
        )
        _fits(experiment)
        if out is not None:
            report.prepare(out)
        runs = _swept(experiment, jobs, f"{source.name}")
        if out is not None:
            report.write(experiment, runs, out)
    report.show(_console(), experiment, runs)
    if out is not None:
        print(f"\nReport: {out / report.PAGE}")


@app.command()
def size(
    workload: Workload,
    policy: Annotated[str, typer.Option(help="One, as in penstock lab sim.")],
    profile: ProfileName,
    rate: Rate = "",
    concurrency: Concurrency = "",
    speed: Speed = "",
    duration: Duration = None,
    requests: Requests = None,
    seeds: Seeds = 3,
    slo_ttft: SloTtft = 2.0,
    slo_tpot: SloTpot = 0.05,
    share: Annotated[
        float, typer.Option(help="Of the requests that must be answered within the SLO.")
    ] = 0.9,
    begin: Annotated[int, typer.Option(help="Replicas to begin the search with.", min=1)] = 4,
    most: Annotated[int, typer.Option(help="Replicas to try at most.", min=1)] = 256,
    warm_up: WarmUp = 0.2,
    cool_down: CoolDown = 0.1,
    max_num_batched_tokens: BatchedTokens = 8192,
    max_num_seqs: NumSeqs = 256,
    max_model_len: ModelLen = 131_072,
    max_loras: Loras = LORA_SLOTS,
    client_timeout: Timeout = None,
    jobs: Jobs = None,
    out: Annotated[Path | None, typer.Option(help="File for the result, JSON.")] = None,
) -> None:
    """The smallest fleet that answers a workload within an SLO, with every seed.

    The SLO is met when --share of the requests have both their first token and their tokens in
    time.
    """
    with _problems():
        registry.load_plugins()
        source = Source.parse(workload)
        chip = choices.profile(profile)
        experiment = Experiment(
            source,
            _levels(source, rate, concurrency, speed),
            choices.policies(policy),
            (begin,),
            chip,
            choices.limits(
                chip,
                max_num_batched_tokens=max_num_batched_tokens,
                max_num_seqs=max_num_seqs,
                max_model_len=max_model_len,
                max_loras=max_loras,
            ),
            seeds,
            Slo(slo_ttft, slo_tpot),
            Cut(warm_up, cool_down),
            Extent(duration, requests),
            client_timeout_s=client_timeout,
        )
        _fits(experiment)
        sizing = smallest_fleet(
            experiment,
            lambda sized: _swept(sized, jobs, f"{sized.replicas[0]} replicas"),
            wanted=share,
            most=most,
        )
        if out is not None:
            _write(out, dumped(sizing_document(experiment, sizing)))
    console = _console()
    console.print(_trials(sizing.trials))
    for index, text in enumerate(sizing_sentences(experiment, sizing)):
        console.print(text, style="bold" if index == 0 else "", highlight=False)
    if sizing.smallest is None:
        raise typer.Exit(1)


@app.command("workloads")
def list_workloads() -> None:
    """The catalogue of workloads."""
    table = Table("workload", "what it is", "its own load")
    for name, entry in CATALOGUE.items():
        source = Source(name)
        table.add_row(name, entry.about, source.levels()[0].label)
    _console().print(table)


@app.command("policies")
def list_policies() -> None:
    """Routing policies that can be compared, those of plugins among them."""
    with _problems():
        registry.load_plugins()
    for name in registry.names("policy"):
        print(name)


@app.command("profiles")
def list_profiles() -> None:
    """Built-in profiles: a model on an accelerator, and how fast that is."""
    table = Table("profile", "model", "each replica", "KV tokens", "source")
    with _problems():
        for name in built_in_names():
            profile = built_in(name)
            table.add_row(
                name,
                profile.model.name,
                f"{profile.tensor_parallel} x {profile.accelerator.name}",
                f"{profile.kv_blocks() * 16:,}",
                profile.source,
            )
    _console().print(table)


def _levels(source: Source, rate: str, concurrency: str, speed: str) -> tuple[Level, ...]:
    return source.levels(
        rates=choices.numbers(rate, "--rate") if rate else (),
        concurrencies=choices.numbers(concurrency, "--concurrency") if concurrency else (),
        speeds=choices.numbers(speed, "--speed") if speed else (),
    )


def _fits(experiment: Experiment) -> None:
    """Raises LabError where an option would be left unheard."""
    extent, kind = experiment.extent, experiment.levels[0].kind
    if kind is LevelKind.RAMP and extent.duration_s is not None:
        raise LabError("--duration: a ramp has its own stages; give a --rate to have one load")


def _swept(experiment: Experiment, jobs: int | None, what: str) -> tuple[Run, ...]:
    with bars(Console(stderr=True)) as progress:
        watcher = Bar(progress, len(tuple(experiment.cells())), what)
        return sweep(experiment, jobs=cores() if jobs is None else jobs, watcher=watcher)


def _trials(trials: tuple[Trial, ...]) -> Table:
    table = Table("replicas", "within the SLO, mean", "worst seed", "")
    for trial in trials:
        table.add_row(
            str(trial.replicas),
            f"{trial.share.value:.1%}",
            f"{trial.worst:.1%}",
            "meets it" if trial.met else "",
        )
    return table


def _console() -> Console:
    """As wide as the terminal; wide enough for every column elsewhere."""
    return Console(width=None if sys.stdout.isatty() else 200)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise LabError(f"--out {path}: {error.strerror}") from error


@contextmanager
def _problems() -> Iterator[None]:
    """What a person can put right is told in a line; ValueError is the base of all of those."""
    try:
        yield
    except KeyboardInterrupt:
        _fail("stopped", code=130)
    except ValueError as error:
        _fail(str(error))


def _fail(message: str, *, code: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(code)
