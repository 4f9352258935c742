"""Whether a probed profile holds: a load of another kind is sent to the server and to the model.

Lengths and times are random, several requests run at once, at about half of what the server can do.
Nothing of the profile was fitted to this load.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from loadtests.sim.calibration.probe import Facts, ProbeAnswer, ProbeRequest, ProbeTarget
from loadtests.sim.calibration.probe_engine import EngineTarget
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.scheduler import EngineLimits

_REQUESTS = 120
_LEAST = 20
_LONGEST_PROMPT, _LONGEST_ANSWER = 2048, 96


@dataclass(frozen=True, slots=True)
class Checked:
    """One figure of the load: means in seconds."""

    what: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Relative error."""
        return self.predicted / self.measured - 1.0


async def check(
    target: ProbeTarget,
    profile: Profile,
    facts: Facts,
    limits: EngineLimits,
    *,
    seconds: float,
    seed: int = 7,
) -> list[Checked]:
    """Send the same load to both; ``seconds`` bounds its length. Raises ProbeError."""
    asks = await _load(profile, facts, limits, seconds, seed)
    measured = await target.group(asks)
    counted = [
        replace(ask, prompt_tokens=answer.prompt_tokens)
        for ask, answer in zip(asks, measured, strict=True)
    ]
    predicted = await EngineTarget(profile, limits).group(counted)
    pairs = zip(_figures(measured), _figures(predicted), strict=True)
    return [Checked(what, ours, theirs) for (what, ours), (_, theirs) in pairs]


async def _load(
    profile: Profile, facts: Facts, limits: EngineLimits, seconds: float, seed: int
) -> list[ProbeRequest]:
    rng = random.Random(f"check/{seed}")
    longest = min(_LONGEST_PROMPT, facts.max_model_len // 2)
    asks = [
        ProbeRequest(
            round(32 * (longest / 32) ** rng.random()),
            round(8 * (_LONGEST_ANSWER / 8) ** rng.random()),
        )
        for _ in range(_REQUESTS)
    ]
    at_once = EngineTarget(profile, limits)
    await at_once.group(asks)
    between_s = 2.0 * at_once.now_s() / len(asks)
    kept = max(_LEAST, min(_REQUESTS, int(seconds / between_s)))
    at_s = 0.0
    spread: list[ProbeRequest] = []
    for ask in asks[:kept]:
        spread.append(replace(ask, after_s=at_s))
        at_s += rng.expovariate(1.0 / between_s)
    return spread


def _figures(answers: Sequence[ProbeAnswer]) -> list[tuple[str, float]]:
    ttft = fmean(answer.token_s[0] - answer.sent_s for answer in answers)
    latency = fmean(answer.token_s[-1] - answer.sent_s for answer in answers)
    tpot = fmean(
        (answer.token_s[-1] - answer.token_s[0]) / (len(answer.token_s) - 1)
        for answer in answers
        if len(answer.token_s) > 1
    )
    return [("mean TTFT", ttft), ("mean TPOT", tpot), ("mean latency", latency)]
