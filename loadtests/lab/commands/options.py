"""Options that several commands have, and how commands report mistakes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from math import inf
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

from loadtests.lab import choices
from loadtests.lab.comparison import Comparison
from loadtests.lab.setting import Seeing, Troubles
from loadtests.lab.source import Extent, LabError, Level, LevelKind, Source
from loadtests.lab.summary import Cut, Slo
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.workloads.catalogue import LORA_SLOTS

_BLOCK_TOKENS: Final = 16
"""Block size of a simulated engine's KV cache: vLLM's default."""

WorkloadName = Annotated[
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
Jobs = Annotated[int | None, typer.Option(help="Runs at a time; the cores when left out.", min=1)]
Timeout = Annotated[
    float | None,
    typer.Option(help="Seconds after which clients give up; never when left out.", min=0.001),
]
Folder = Annotated[Path | None, typer.Option(help="Folder for index.html, result.json and plots.")]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How much load there is, and for how long."""

    rate: Annotated[
        str, typer.Option(help="Open loop, requests/s: 5,10 or 5:30:5 (a step of 5).")
    ] = ""
    concurrency: Annotated[str, typer.Option(help="Closed loop, clients: as --rate.")] = ""
    speed: Annotated[str, typer.Option(help="Of a trace, as times recorded: 1,2,4.")] = ""
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds of sending (virtual). Rates: 600 when left out.", min=0.001),
    ] = None
    requests: Annotated[int | None, typer.Option(help="Requests at most.", min=1)] = None

    def levels(self, source: Source) -> tuple[Level, ...]:
        """The levels of load that are asked for. Raises LabError."""
        return source.levels(
            rates=_numbers(self.rate, "--rate"),
            concurrencies=_numbers(self.concurrency, "--concurrency"),
            speeds=_numbers(self.speed, "--speed"),
        )

    @property
    def extent(self) -> Extent:
        """How long a run sends."""
        return Extent(self.duration, self.requests)


@dataclass(frozen=True, slots=True)
class GoalOptions:
    """What a good answer is, and how many runs there are."""

    seeds: Annotated[int, typer.Option(help="Runs of each, one for each seed.", min=1)] = 3
    first_seed: Annotated[int, typer.Option(help="The seeds begin here.", min=1)] = 1
    slo_ttft: Annotated[float, typer.Option(help="Longest good time to first token, s.", min=0)] = (
        2.0
    )
    slo_tpot: Annotated[
        float, typer.Option(help="Longest good time per output token, s.", min=0)
    ] = 0.05

    @property
    def slo(self) -> Slo:
        """Both limits in one value."""
        return Slo(self.slo_ttft, self.slo_tpot)


@dataclass(frozen=True, slots=True)
class TroubleOptions:
    """What is not as it should be in a run. Speeds: 1 is the profile's."""

    scrape_interval: Annotated[
        float, typer.Option(help="Seconds between two reads of a busy replica.", min=0.001)
    ] = 0.25
    slow_share: Annotated[
        float, typer.Option(help="Share of replicas with --slow-speed.", min=0, max=1)
    ] = 0.0
    slow_speed: Annotated[float, typer.Option(help="Their speed.", min=0.001)] = 0.5
    degrade_at: Annotated[
        float | None, typer.Option(help="Second at which one replica gets --degrade-speed.", min=0)
    ] = None
    degrade_speed: Annotated[float, typer.Option(help="Its speed then.", min=0.001)] = 0.3
    lose_metrics_at: Annotated[
        float | None, typer.Option(help="Second from which no replica's metrics come.", min=0)
    ] = None

    @property
    def seeing(self) -> Seeing:
        """What a gateway sees, and when."""
        idle_s = max(self.scrape_interval, Seeing().idle_scrape_interval_s)
        return Seeing(self.scrape_interval, idle_s)

    @property
    def troubles(self) -> Troubles:
        """As a value of the lab. Raises ValueError."""
        return Troubles(
            self.slow_share,
            self.slow_speed,
            inf if self.degrade_at is None else self.degrade_at,
            self.degrade_speed,
            inf if self.lose_metrics_at is None else self.lose_metrics_at,
        )


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which part of a run counts, and how large the simulated engines are."""

    warm_up: Annotated[
        float, typer.Option(help="Share of the time that figures leave out first.")
    ] = 0.2
    cool_down: Annotated[
        float, typer.Option(help="Share of the requests that they leave out last.")
    ] = 0.1
    max_num_batched_tokens: Annotated[int, typer.Option(help="As vLLM's.", min=1)] = 8192
    max_num_seqs: Annotated[int, typer.Option(help="As vLLM's.", min=1)] = 256
    max_model_len: Annotated[
        int, typer.Option(help="As vLLM's, shortened to what fits.", min=2)
    ] = 131_072
    max_loras: Annotated[int, typer.Option(help="LoRA slots of a replica.", min=0)] = LORA_SLOTS

    @property
    def cut(self) -> Cut:
        """What figures leave out. Raises ValueError."""
        return Cut(self.warm_up, self.cool_down)

    def limits(self, profile: Profile) -> EngineLimits:
        """The engines' size, with as many KV blocks as the profile's memory holds. A context that
        does not fit into them is shortened to what does, as ``vllm serve --max-model-len auto``
        does. Raises ValueError, ProfileError."""
        blocks = profile.kv_blocks(_BLOCK_TOKENS)
        return EngineLimits(
            num_blocks=blocks,
            block_size_tokens=_BLOCK_TOKENS,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=min(self.max_model_len, blocks * _BLOCK_TOKENS),
            max_loras=self.max_loras,
        )


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer, which reads options from a signature: every parameter whose type is a
    dataclass is replaced by the fields of that class."""
    bundles: dict[str, Callable[..., object]] = {}
    options: list[Parameter] = []
    for name, parameter in signature(command, eval_str=True).parameters.items():
        bundle = parameter.annotation
        if isinstance(bundle, type) and is_dataclass(bundle):
            bundles[name] = bundle
            options += signature(bundle, eval_str=True).parameters.values()
        else:
            options.append(parameter)
    options = [option.replace(kind=Parameter.KEYWORD_ONLY) for option in options]

    @wraps(command)
    def called(**given: object) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{each: given.pop(each) for each in signature(bundle).parameters})
        command(**given)

    called.__signature__ = Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in options}
    return called


def _numbers(text: str, option: str) -> tuple[float, ...]:
    return choices.numbers(text, option) if text else ()


def fits(comparison: Comparison) -> None:
    """Raises LabError for an option that would have no effect."""
    extent, kind = comparison.extent, comparison.levels[0].kind
    if kind is LevelKind.RAMP and extent.duration_s is not None:
        raise LabError("--duration: a ramp has its own stages; give a --rate to have one load")


def console() -> Console:
    """A console as wide as the terminal; elsewhere wide enough for every column."""
    return Console(width=None if sys.stdout.isatty() else 200)


def writable(path: Path, option: str) -> None:
    """Raises LabError when the file cannot be written: before hours of runs, not after."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise LabError(f"{option} {path}: {error.strerror}") from error


@contextmanager
def problems() -> Iterator[None]:
    """Reports in one line what a person can put right; ValueError is the base of all such
    errors."""
    try:
        yield
    except KeyboardInterrupt:
        fail("stopped", code=130)
    except ValueError as error:
        fail(str(error))


def fail(message: str, *, code: int = 1) -> NoReturn:
    """End the command with a message."""
    print(message, file=sys.stderr)
    raise typer.Exit(code)
