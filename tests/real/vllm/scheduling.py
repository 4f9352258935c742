"""vLLM's own scheduler without a model, and the KV events that it would publish.

    VLLM_PYTHON tests/real/vllm/scheduling.py MODEL < scenarios.json > batches.json

Runs under vLLM's interpreter. Two schedulers: the one that waits for each step, which is all that
vLLM has on the CPU, and the asynchronous one of accelerators, which is a step ahead.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Scenario:
    """Rounds of requests, each a prompt and its answer; a round starts when the last is over."""

    ahead: bool
    block_tokens: int
    blocks: int
    """With vLLM's placeholder."""
    max_running: int
    max_batched_tokens: int
    max_model_tokens: int
    rounds: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]]


class SchedulingError(Exception):
    """vLLM did not do it; the message carries its own."""


def kv_events(
    scenarios: Sequence[Scenario], model: Path, interpreter: Path
) -> list[list[list[dict[str, Any]]]]:
    """For each scenario the batches of events. Raises SchedulingError."""
    done = subprocess.run(
        [str(interpreter), __file__, str(model)],
        input=json.dumps([asdict(scenario) for scenario in scenarios]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SchedulingError(done.stderr)
    found: list[list[list[dict[str, Any]]]] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Run:
    """One scenario, under vLLM's interpreter."""

    def __init__(self, scenario: Scenario, model: str) -> None:
        self.scenario = scenario
        self.batches: list[object] = []
        self._answers: dict[str, Sequence[int]] = {}
        self._given: dict[str, int] = {}
        self._scheduler = self._make(model)

    def run(self) -> None:
        for number, requests in enumerate(self.scenario.rounds):
            for index, (prompt, answer) in enumerate(requests):
                self._add(f"{number}-{index}", prompt, answer)
            flying: deque[Any] = deque()
            while flying or self._scheduler.has_requests():
                if self._scheduler.has_requests():
                    step = self._scheduler.schedule()
                    flying.append(step)
                    if self.scenario.ahead and len(flying) < 2 and step.num_scheduled_tokens:
                        continue
                self._finish(flying.popleft())

    def publish(self, batch: Any) -> None:
        """In the place of vLLM's publisher."""
        import msgspec

        self.batches.append(msgspec.to_builtins(batch.events))

    def shutdown(self) -> None:
        """In the place of vLLM's publisher."""

    def _make(self, model: str) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        from vllm.config import (  # type: ignore[import-not-found,unused-ignore]
            CacheConfig,
            KVEventsConfig,
            ModelConfig,
            SchedulerConfig,
            VllmConfig,
        )
        from vllm.v1.core.sched.async_scheduler import (  # type: ignore[import-not-found,unused-ignore]
            AsyncScheduler,
        )
        from vllm.v1.core.sched.scheduler import (  # type: ignore[import-not-found,unused-ignore]
            Scheduler,
        )
        from vllm.v1.kv_cache_interface import (  # type: ignore[import-not-found,unused-ignore]
            FullAttentionSpec,
            KVCacheConfig,
            KVCacheGroupSpec,
        )
        from vllm.v1.structured_output import (  # type: ignore[import-not-found,unused-ignore]
            StructuredOutputManager,
        )

        wanted = self.scenario
        size = wanted.block_tokens
        config = VllmConfig(
            model_config=ModelConfig(model=model, max_model_len=wanted.max_model_tokens),
            scheduler_config=SchedulerConfig(
                max_num_seqs=wanted.max_running,
                max_num_batched_tokens=wanted.max_batched_tokens,
                max_model_len=wanted.max_model_tokens,
                is_encoder_decoder=False,
            ),
            cache_config=CacheConfig(block_size=size, enable_prefix_caching=True),
            kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null"),
        )
        config.scheduler_config.async_scheduling = wanted.ahead  # the CPU platform turns it off
        config.cache_config.num_gpu_blocks = wanted.blocks
        spec = FullAttentionSpec(block_size=size, num_kv_heads=1, head_size=1, dtype=torch.float32)
        scheduler = (AsyncScheduler if wanted.ahead else Scheduler)(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=wanted.blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=size,
        )
        scheduler.kv_event_publisher = self
        return scheduler

    def _add(self, name: str, prompt: Sequence[int], answer: Sequence[int]) -> None:
        from vllm.sampling_params import (  # type: ignore[import-not-found,unused-ignore]
            SamplingParams,
        )
        from vllm.utils.hashing import sha256  # type: ignore[import-not-found,unused-ignore]
        from vllm.v1.core.kv_cache_utils import (  # type: ignore[import-not-found,unused-ignore]
            get_request_block_hasher,
            init_none_hash,
        )
        from vllm.v1.request import Request  # type: ignore[import-not-found,unused-ignore]

        init_none_hash(sha256)
        self._answers[name], self._given[name] = answer, 0
        self._scheduler.add_request(
            Request(
                request_id=name,
                prompt_token_ids=list(prompt),
                sampling_params=SamplingParams(max_tokens=len(answer), ignore_eos=True),
                pooling_params=None,
                block_hasher=get_request_block_hasher(self.scenario.block_tokens, sha256),
            )
        )

    def _finish(self, step: Any) -> None:
        """The model's part: the next token of every request whose known tokens are computed."""
        from vllm.v1.outputs import (  # type: ignore[import-not-found,unused-ignore]
            ModelRunnerOutput,
        )

        before = {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
        cached = step.scheduled_cached_reqs
        before |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        names = list(step.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for name in names:
            request, given = self._scheduler.requests.get(name), self._given[name]
            computed = before[name] + step.num_scheduled_tokens[name]
            sampled.append([])
            if request is not None and computed >= request.num_prompt_tokens + given:
                sampled[-1].append(self._answers[name][given])
                self._given[name] += 1
        self._scheduler.update_from_output(
            step,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: index for index, name in enumerate(names)},
                sampled_token_ids=sampled,
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )


def _main() -> None:
    told: list[object] = []
    for values in json.load(sys.stdin):
        run = _Run(Scenario(**values), sys.argv[1])
        run.run()
        told.append(run.batches)
    print(json.dumps(told))


if __name__ == "__main__":
    _main()
