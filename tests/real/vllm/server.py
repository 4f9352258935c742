"""A vLLM replica on the CPU as a child process, and what its own counters say.

`async with Replica(ReplicaOptions(model=tiny.base), log_folder=folder) as replica` has it answering
at `replica.url`; about 3 GB less what a small `kv_blocks` saves, ready in about half a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.real.vllm.install import interpreter

READY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 10.0
_POLL_S = 0.25
_KILL_POLL_S = 0.02
_TAIL_LINES = 40
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ReplicaError(Exception):
    """A replica did not come up or went away; the message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What vLLM is started with; the defaults suit several replicas on two cores."""

    model: Path
    served_name: str = "tiny"
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Name to folder. LoRA is switched on when there is one."""
    max_loras: int = 2
    block_tokens: int = 32
    """vLLM's CPU attention wants multiples of 32; its default there is 128."""
    kv_blocks: int | None = 4096
    """Blocks in the KV cache; None takes all of `kv_space_gib`."""
    kv_space_gib: int = 1
    max_model_tokens: int = 4096
    max_running: int = 16
    threads: int = 1
    runtime_lora_updates: bool = False
    development_endpoints: bool = False
    """/pause, /resume, /sleep, /reset_prefix_cache ..."""
    extra_arguments: tuple[str, ...] = ()

    def arguments(self, port: int) -> list[str]:
        """The command line after the interpreter."""
        arguments = [
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--model", str(self.model), "--served-model-name", self.served_name),
            *("--dtype", "bfloat16", "--enforce-eager"),
            *("--max-model-len", str(self.max_model_tokens)),
            *("--max-num-seqs", str(self.max_running)),
            *("--block-size", str(self.block_tokens)),
            "--enable-prompt-tokens-details",
        ]
        if self.kv_blocks is not None:
            arguments += ["--num-gpu-blocks-override", str(self.kv_blocks)]
        if self.adapters or self.runtime_lora_updates:
            arguments += ["--enable-lora", "--max-loras", str(self.max_loras)]
        if self.adapters:
            modules = [f"{name}={path}" for name, path in self.adapters.items()]
            arguments += ["--lora-modules", *modules]
        return [*arguments, *self.extra_arguments]

    def environment(self) -> dict[str, str]:
        """The child's environment: ours, without what would lead its Python astray."""
        ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return ours | {
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_space_gib),
            # Replicas that bind themselves all choose the same core.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(self.threads),
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(self.runtime_lora_updates),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            **({"VLLM_SERVER_DEV_MODE": "1"} if self.development_endpoints else {}),
        }


@dataclass(frozen=True, slots=True)
class Counters:
    """vLLM's own account since it started; the base model and its adapters together.

    Published once per engine step: the last step's numbers may come a little after the answer.
    """

    prompt_tokens: int
    """Counted when a prefill is done, cached tokens included; a choice (`n`) counts each time."""
    cached_prompt_tokens: int
    generation_tokens: int
    """Also what was generated for a client that went away."""
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache."""
    prefix_cache_hits: int
    """Of these, tokens found: whole blocks only."""
    finished: Mapping[str, int]
    """Requests by finish reason; one whose client went away is not counted, not as abort either."""
    running: int
    waiting: int


class Replica:
    """One vLLM server process. Enter to start it and wait for /health; leave to stop it."""

    def __init__(
        self,
        options: ReplicaOptions,
        *,
        log_folder: Path,
        port: int | None = None,
        ready_timeout_s: float = READY_TIMEOUT_S,
    ) -> None:
        self.options = options
        self.port = port or _free_port()
        self.log = log_folder / f"vllm-{self.port}.log"
        self.ready_after_s = 0.0
        self._ready_timeout_s = ready_timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def process_group(self) -> int:
        """The group that all its processes are in. Raises ReplicaError when it does not run."""
        if self._process is None:
            raise ReplicaError(f"the replica on {self.address} does not run")
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts vLLM and returns when it answers. Raises ReplicaError."""
        python = interpreter()
        if not python.exists():
            raise ReplicaError(f"no vLLM in {python.parents[1]}: run tests/real/vllm/install.py")
        started_s = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(python),
                *self.options.arguments(self.port),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=self.options.environment(),
                cwd=self.log.parent,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        try:
            await self._ready(self._process, started_s + self._ready_timeout_s)
        except BaseException:
            await self.kill()
            raise
        self.ready_after_s = time.monotonic() - started_s

    async def stop(self) -> None:
        """Asks vLLM to end (SIGTERM) and ends it with all its children (SIGKILL) if it does not."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):  # what SIGTERM did not end, SIGKILL does
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        await self.kill()

    async def kill(self) -> None:
        """Ends the replica as a crash would (SIGKILL), its engine processes too.

        Returns when they are gone. Raises ReplicaError when some are not.
        """
        process, self._process = self._process, None
        if process is None:
            return
        deadline_s = time.monotonic() + KILL_TIMEOUT_S
        while time.monotonic() < deadline_s:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return  # nobody left in the group
            await process.wait()
            if not group_runs(process.pid):
                return  # whoever took over its orphans only has not collected them yet
            await asyncio.sleep(_KILL_POLL_S)
        raise ReplicaError(f"processes of group {process.pid} outlived SIGKILL: see `ps -g`")

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of the log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def counters(self) -> Counters:
        """What vLLM has counted. Raises aiohttp.ClientError when it does not answer."""
        samples = _samples(await self.metrics())
        requests = "vllm:request_success_total"
        return Counters(
            prompt_tokens=_total(samples, "vllm:prompt_tokens_total"),
            cached_prompt_tokens=_total(samples, "vllm:prompt_tokens_cached_total"),
            generation_tokens=_total(samples, "vllm:generation_tokens_total"),
            prefix_cache_queries=_total(samples, "vllm:prefix_cache_queries_total"),
            prefix_cache_hits=_total(samples, "vllm:prefix_cache_hits_total"),
            finished={
                labels["finished_reason"]: int(value)
                for name, labels, value in samples
                if name == requests
            },
            running=_total(samples, "vllm:num_requests_running"),
            waiting=_total(samples, "vllm:num_requests_waiting"),
        )

    async def metrics(self) -> str:
        """The text of /metrics."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.url}/metrics") as response,
        ):
            response.raise_for_status()
            return await response.text()

    async def _ready(self, process: asyncio.subprocess.Process, deadline_s: float) -> None:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while time.monotonic() < deadline_s:
                if process.returncode is not None:
                    raise ReplicaError(
                        f"vLLM on {self.address} ended with {process.returncode} before it was "
                        f"ready; {self.log} ends:\n{self.tail()}"
                    )
                try:
                    async with session.get(f"{self.url}/health") as response:
                        if response.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not listening yet
                await asyncio.sleep(_POLL_S)
        raise ReplicaError(
            f"vLLM on {self.address} was not ready after {self._ready_timeout_s:.0f} s; "
            f"{self.log} ends:\n{self.tail()}"
        )


_Sample = tuple[str, Mapping[str, str], float]


def _samples(text: str) -> list[_Sample]:
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def _total(samples: list[_Sample], name: str) -> int:
    return int(sum(value for found, _, value in samples if found == name))


def group_runs(group: int) -> bool:
    """Some process of the group has not ended; zombies have."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Runs in the child: a test run that is killed outright leaves no vLLM behind (Linux)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
