"""Reads measurements of real servers, in the form of `vllm-h100/measured.json`.

A file is a list of experiments: the server's settings, the workload, the load, and per load stage
what inference-perf reported. Times are seconds, lengths tokens.
"""

from __future__ import annotations

from pathlib import Path

import pydantic


class MeasuredError(ValueError):
    """A file of measurements that cannot be used; the message says where and why."""


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)


class Distribution(_Part):
    """Statistics of one quantity; None for those that are missing."""

    mean: float | None = None
    median: float | None = None
    p90: float | None = None
    p99: float | None = None


class Throughput(_Part):
    """Rates of a stage, of requests that were completed."""

    output_tokens_per_sec: float | None = None


class MeasuredStage(_Part):
    """The measurements of one stage of the load. ``count``: requests that were completed."""

    count: int = 0
    failures: int = 0
    throughput: Throughput = Throughput()
    prompt_len: Distribution = Distribution()
    output_len: Distribution = Distribution()
    request_latency: Distribution = Distribution()
    time_per_output_token: Distribution = Distribution()
    time_to_first_token: Distribution = Distribution()


class MeasuredServer(_Part):
    """vLLM's settings. None: vLLM works it out itself."""

    model: str
    tensor_parallelism: int = 1
    max_model_len: int = 4096
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 128
    block_size: int = 16
    num_gpu_blocks: int | None = None
    gpu_memory_utilization: float | None = None
    accelerator: str | None = None
    app: str = "inference-perf"


class MeasuredPrompts(_Part):
    """inference-perf's generator of prompts that share their beginnings; lengths in tokens."""

    num_unique_system_prompts: int = 10
    num_users_per_system_prompt: int = 10
    system_prompt_len: int = 100
    question_len: int = 50
    output_len: int = 50


class MeasuredWorkload(_Part):
    """What is sent."""

    type: str
    shared_prefix: MeasuredPrompts | None = None


class LoadStage(_Part):
    """``rate`` in requests per second, ``duration`` in seconds."""

    rate: float
    duration: float


class MeasuredLoad(_Part):
    """How often it is sent."""

    type: str = "constant"
    stages: list[LoadStage]
    request_timeout: float | None = None


class MeasuredExperiment(_Part):
    """One run against one server that had just started."""

    experiment: str
    config: MeasuredServer
    workload: MeasuredWorkload
    load: MeasuredLoad
    stages: list[MeasuredStage] = []

    @property
    def prompts(self) -> MeasuredPrompts:
        """The prompts of the workload. Raises MeasuredError for another kind of workload."""
        if self.workload.shared_prefix is None:
            raise MeasuredError(
                f"{self.experiment}: workload {self.workload.type!r} is not known here; "
                "`shared_prefix` is"
            )
        return self.workload.shared_prefix

    @property
    def server_name(self) -> str:
        """Name of the profile that it needs: model and tensor parallel size."""
        model = self.config.model.rsplit("/", 1)[-1].lower()
        return f"{model}-tp{self.config.tensor_parallelism}"

    def sent(self, stage: int) -> int:
        """Number of requests in a stage."""
        load = self.load.stages[stage]
        return int(load.rate * load.duration)


_FILE = pydantic.TypeAdapter(list[MeasuredExperiment])


def read_measured(path: Path) -> list[MeasuredExperiment]:
    """The experiments of a file. Raises MeasuredError: what is missing or wrong, and where."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MeasuredError(
            f"{path}: {error.strerror or error}; give the path of a file of measurements "
            "(of the form of vllm-h100/measured.json)"
        ) from error
    try:
        found = _FILE.validate_json(text)
    except pydantic.ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]
        )
        raise MeasuredError(f"{path}: {wrong}") from error
    if not found:
        raise MeasuredError(f"{path}: no experiment in it")
    return found
