"""Command line of `python -m loadtests.sim`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.sim.answers import AnswerLengths
from loadtests.sim.replica import ReplicaSettings
from loadtests.sim.scheduler import EngineSettings


@dataclass(frozen=True, slots=True)
class Options:
    """What to serve and where."""

    host: str
    ports: tuple[int, ...]
    replica: ReplicaSettings
    startup_delay_s: float
    drain_s: float


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options of a command line (sys.argv when None); exits with a message when it is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        return _options(given)
    except ValueError as error:
        parser.error(str(error))


def _options(given: argparse.Namespace) -> Options:
    adapters = tuple(name for value in given.lora for name in value.split(",") if name)
    max_loras = given.max_loras
    if max_loras is None:
        max_loras = 1 if adapters else 0
    max_model_tokens = given.max_model_len
    if max_model_tokens is None:
        max_model_tokens = given.num_blocks * given.block_size
    engine = EngineSettings(
        num_blocks=given.num_blocks,
        block_size_tokens=given.block_size,
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        max_model_tokens=max_model_tokens,
        max_loras=max_loras,
        step_fixed_s=given.step_ms / 1e3,
        prefill_s_per_token=given.prefill_us_per_token / 1e6,
        decode_s_per_sequence=given.decode_us_per_sequence / 1e6,
        time_scale=given.time_scale,
    )
    lengths = AnswerLengths(
        median_tokens=given.output_tokens_median,
        sigma=given.output_tokens_sigma,
        shortest_tokens=given.output_tokens_min,
    )
    if given.replicas < 1:
        raise ValueError(f"--replicas is {given.replicas}, must be at least 1")
    return Options(
        host=given.host,
        ports=tuple(given.port + i if given.port else 0 for i in range(given.replicas)),
        replica=ReplicaSettings(
            models=tuple(name for value in given.model for name in value.split(",") if name),
            adapters=adapters,
            engine=engine,
            lengths=lengths,
            seed=given.seed,
        ),
        startup_delay_s=given.startup_delay_s,
        drain_s=given.drain_s,
    )


def _parser() -> argparse.ArgumentParser:
    engine, lengths = EngineSettings(), AnswerLengths()
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.sim",
        description="Simulated vLLM replicas over HTTP.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8001, help="first port; 0 takes free ones")
    add("--replicas", type=int, default=1, help="replicas, on consecutive ports")
    add("--model", action="append", required=True, help="base model; repeat or comma for aliases")
    add("--lora", action="append", default=[], help="adapter loaded at start; repeat or comma")
    add("--max-loras", type=int, help="adapters in one batch; 0 no LoRA; default 1 with --lora")
    add("--num-blocks", type=int, default=engine.num_blocks, help="KV blocks")
    add("--block-size", type=int, default=engine.block_size_tokens, help="tokens a KV block")
    add("--max-num-seqs", type=int, default=engine.max_num_seqs, help="sequences in a batch")
    add(
        "--max-num-batched-tokens",
        type=int,
        default=engine.max_num_batched_tokens,
        help="tokens computed in one step",
    )
    add("--max-model-len", type=int, help="tokens of prompt and answer; default: the KV cache")
    add("--step-ms", type=float, default=engine.step_fixed_s * 1e3, help="fixed part of a step")
    add(
        "--prefill-us-per-token",
        type=float,
        default=engine.prefill_s_per_token * 1e6,
        help="added to a step for each prompt token computed in it",
    )
    add(
        "--decode-us-per-sequence",
        type=float,
        default=engine.decode_s_per_sequence * 1e6,
        help="added to a step for each sequence that decodes in it",
    )
    add("--time-scale", type=float, default=1.0, help="wall time for model time; 0: no waiting")
    add("--output-tokens-median", type=float, default=lengths.median_tokens, help="answer length")
    add("--output-tokens-sigma", type=float, default=lengths.sigma, help="its log-normal spread")
    add("--output-tokens-min", type=int, default=lengths.shortest_tokens, help="shortest answer")
    add("--seed", type=int, default=0, help="of answers and their lengths")
    add("--startup-delay-s", type=float, default=0.0, help="wait before listening")
    add("--drain-s", type=float, default=0.5, help="on SIGTERM, time for running requests")
    return parser
