"""The engine model as a probe's target, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from loadtests.sim.calibration.probe import Facts, ProbeAnswer, ProbeRequest
from loadtests.sim.model.engine import EngineModel
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.request import EngineRequest
from loadtests.sim.model.request import Sequence as EngineSequence
from loadtests.sim.model.scheduler import EngineLimits


class EngineTarget:
    """A server with the profile. Its clock goes on from group to group."""

    def __init__(self, profile: Profile, limits: EngineLimits) -> None:
        self._limits = limits
        self._engine = EngineModel(profile, limits)
        self._output_s = profile.output_s
        self._now_s = 0.0
        self.asked: list[ProbeRequest] = []
        """All requests so far."""

    def now_s(self) -> float:
        """Virtual seconds."""
        return self._now_s

    async def facts(self) -> Facts:
        """The facts that follow from its limits."""
        limits = self._limits
        return Facts(
            "model", "model", limits.max_model_len, limits.num_blocks, limits.block_size_tokens
        )

    async def group(self, asks: Sequence[ProbeRequest]) -> list[ProbeAnswer]:
        """Send all requests at their times. Raises ValueError for a prompt that can never run."""
        engine = self._engine
        answers = [ProbeAnswer(self._now_s + ask.after_s, ask.prompt_tokens) for ask in asks]
        waiting = sorted(range(len(asks)), key=lambda index: asks[index].after_s, reverse=True)
        running: dict[int, EngineSequence] = {}
        while waiting or running:
            arrival_s = answers[waiting[-1]].sent_s if waiting else inf
            self._now_s = min(arrival_s, engine.next_step_s())
            engine.advance(self._now_s)
            engine.settle()
            for index, sequence in list(running.items()):
                fresh = sequence.generated_tokens - len(answers[index].token_s)
                answers[index].token_s += [self._now_s + self._output_s] * fresh
                if sequence.done:
                    del running[index]
            if arrival_s == self._now_s:
                index = waiting.pop()
                running[index] = engine.add(self._request(asks[index]), self._now_s)
        self._now_s += 0.01  # as a client that reads the answers before it sends more
        engine.advance(self._now_s)
        return answers

    def _request(self, ask: ProbeRequest) -> EngineRequest:
        self.asked.append(ask)
        return EngineRequest(str(len(self.asked)), ask.prompt_tokens, ask.output_tokens)
