"""The command line of `python -m loadtests.sim`."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from loadtests.sim.model.profile import Profile, ProfileError, built_in_names, find
from loadtests.sim.model.scheduler import EngineLimits
from loadtests.sim.serving.answers import AnswerLengths
from loadtests.sim.serving.engine import EngineSettings
from loadtests.sim.serving.faults import parse as parse_fault
from loadtests.sim.serving.kv_publisher import PublisherOptions
from loadtests.sim.serving.replica import ReplicaSettings

DEFAULT_PROFILE = "qwen3-8b-tp1-h100"
_HIGHEST_PORT = 65535
_NUMBERS = [each.name for each in fields(Profile) if each.type in ("int", "float")]


@dataclass(frozen=True, slots=True)
class Options:
    """What to serve and where."""

    host: str
    ports: tuple[int, ...]
    replicas: tuple[ReplicaSettings, ...]
    """One for each port."""
    startup_delay_s: float
    drain_s: float


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options of a command line (sys.argv when None); exits with a message when it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        return _options(given)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _options(given: argparse.Namespace) -> Options:
    adapters = tuple(name for value in given.lora for name in value.split(",") if name)
    if given.replicas < 1:
        raise ValueError(f"--replicas is {given.replicas}, must be at least 1")
    for option, value in (
        ("time-scale", given.time_scale),
        ("startup-delay-s", given.startup_delay_s),
        ("drain-s", given.drain_s),
    ):
        if not 0.0 <= value < math.inf:
            raise ValueError(f"--{option} is {value}, must be a number that is not negative")
    if not 0 <= given.port <= given.port + given.replicas - 1 <= _HIGHEST_PORT:
        raise ValueError(f"--port is {given.port}: ports are 0 to {_HIGHEST_PORT}, one a replica")
    settings = ReplicaSettings(
        models=tuple(name for value in given.model for name in value.split(",") if name),
        adapters=adapters,
        engine=_engine(given, adapters),
        lengths=AnswerLengths(
            median_tokens=given.output_tokens_median,
            sigma=given.output_tokens_sigma,
            shortest_tokens=given.output_tokens_min,
        ),
        seed=given.seed,
        faults=tuple(map(parse_fault, given.fault)),
    )
    return Options(
        host=given.host,
        ports=tuple(given.port + i if given.port else 0 for i in range(given.replicas)),
        replicas=tuple(
            replace(settings, kv_events=_kv_events(given, i)) for i in range(given.replicas)
        ),
        startup_delay_s=given.startup_delay_s,
        drain_s=given.drain_s,
    )


def _engine(given: argparse.Namespace, adapters: tuple[str, ...]) -> EngineSettings:
    profile = _adjusted(find(given.profile), given.set)
    num_blocks = given.num_blocks
    if num_blocks is None:
        num_blocks = profile.kv_blocks(given.block_size)
    max_model_len, max_loras = given.max_model_len, given.max_loras
    limits = EngineLimits(
        num_blocks=num_blocks,
        block_size_tokens=given.block_size,
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        max_model_len=num_blocks * given.block_size if max_model_len is None else max_model_len,
        long_prefill_token_threshold=given.long_prefill_token_threshold,
        max_loras=int(bool(adapters)) if max_loras is None else max_loras,
        prefix_caching=given.enable_prefix_caching,
        async_scheduling=given.async_scheduling,
    )
    return EngineSettings(profile, limits, given.time_scale)


def _adjusted(profile: Profile, changes: Sequence[str]) -> Profile:
    """The profile with the fields of ``FIELD=VALUE`` set. Raises ValueError."""
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in _NUMBERS:
            known = ", ".join(_NUMBERS)
            raise ValueError(f"--set {change}: FIELD=VALUE is wanted; fields are {known}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        whole = isinstance(getattr(profile, name), int)
        if not 0.0 <= value < math.inf or (whole and (value < 1 or value != int(value))):
            wanted = "a whole number from 1" if whole else "a number that is not negative"
            raise ValueError(f"--set {change}: {name} is {wanted}")
        changed: dict[str, Any] = {name: int(value) if whole else value}
        try:
            profile = replace(profile, **changed)
        except ProfileError as error:
            raise ValueError(f"--set {change}: {error}") from error
    return profile


def _kv_events(given: argparse.Namespace, index: int) -> PublisherOptions | None:
    """Where the replica of that index publishes its KV events."""
    if given.kv_events_endpoint is None:
        if given.kv_events_replay_endpoint is not None:
            raise ValueError("--kv-events-replay-endpoint needs --kv-events-endpoint")
        return None
    replay = given.kv_events_replay_endpoint
    return PublisherOptions(
        endpoint=_shifted(given.kv_events_endpoint, index),
        replay_endpoint=None if replay is None else _shifted(replay, index),
        topic=given.kv_events_topic,
    )


def _shifted(endpoint: str, index: int) -> str:
    """The endpoint of the replica of that index: each has the port after the one before, as vLLM's
    ranks do."""
    head, colon, port = endpoint.rpartition(":")
    if not index or not port.isdigit() or port == "0":
        return endpoint
    return f"{head}{colon}{int(port) + index}"


def _parser() -> argparse.ArgumentParser:
    limits, lengths = EngineLimits(num_blocks=2**20), AnswerLengths()
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.sim",
        description="Simulated vLLM replicas over HTTP.",
        epilog=f"Built-in profiles: {', '.join(built_in_names())}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8001, help="first port; 0 takes free ones")
    add("--replicas", type=int, default=1, help="replicas, on consecutive ports")
    add("--model", action="append", required=True, help="base model; repeat or comma for aliases")
    add("--lora", action="append", default=[], help="adapter loaded at start; repeat or comma")
    add("--profile", default=DEFAULT_PROFILE, help="speed and memory: a built-in name, or a file")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the profile")
    add("--time-scale", type=float, default=1.0, help="wall time for model time; 0: no waiting")
    add("--num-blocks", type=int, help="KV blocks; default: what the profile's memory holds")
    add("--block-size", type=int, default=limits.block_size_tokens, help="tokens a KV block")
    add("--max-num-seqs", type=int, default=limits.max_num_seqs, help="sequences in a batch")
    add(
        "--max-num-batched-tokens",
        type=int,
        default=limits.max_num_batched_tokens,
        help="tokens computed in one step",
    )
    add(
        "--async-scheduling",
        action=argparse.BooleanOptionalAction,
        default=limits.async_scheduling,
        help="put a step together while the one before is computed; vLLM never does on the CPU",
    )
    add(
        "--long-prefill-token-threshold",
        type=int,
        default=limits.long_prefill_token_threshold,
        help="longest chunk of a prompt while others want a share; 0: no limit",
    )
    add(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=limits.prefix_caching,
        help="keep KV for later prompts",
    )
    add("--max-model-len", type=int, help="tokens of prompt and answer; default: the KV cache")
    add("--max-loras", type=int, help="adapters in one batch; 0 no LoRA; default 1 with --lora")
    add("--output-tokens-median", type=float, default=lengths.median_tokens, help="answer length")
    add("--output-tokens-sigma", type=float, default=lengths.sigma, help="its log-normal spread")
    add("--output-tokens-min", type=int, default=lengths.shortest_tokens, help="shortest answer")
    add("--seed", type=int, default=0, help="of answers and their lengths")
    add("--kv-events-endpoint", metavar="tcp://*:PORT", help="publish KV events over ZeroMQ here")
    add("--kv-events-replay-endpoint", metavar="tcp://*:PORT", help="replay them here")
    add("--kv-events-topic", default="", help="topic of KV events")
    add("--fault", action="append", default=[], metavar="JSON", help="do this wrong; repeatable")
    add("--startup-delay-s", type=float, default=0.0, help="wait before listening")
    add("--drain-s", type=float, default=0.5, help="on SIGTERM, time for running requests")
    return parser
