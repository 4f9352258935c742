"""Two recordings of the same requests: equal, or different for a reason that was checked.

A burst that arrives during another may meet the engines of two servers at different steps, and
what it finds cached depends on that. That this explains a difference is not taken for granted: the
model runs the requests with the arrivals of each recording, and must get the same answers as each
of the two servers.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil

from loadtests.lab.parity.asks import Burst
from loadtests.lab.parity.recording import Moment, ParityError, Recording
from loadtests.lab.parity.virtual import replay
from loadtests.sim.model.scheduler import EngineLimits

_CLOSE_SHARE, _CLOSE_COUNT = 0.1, 3
_LAGS = (0, 1, -1)
"""Steps by which a server may see arrivals later or sooner than its recording has it."""


class Cause(enum.Enum):
    """Why two servers differ."""

    ARRIVAL = "a burst came at another step"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Difference:
    """Cached tokens of one request."""

    request: str
    real_tokens: int
    simulated_tokens: int
    reason: Cause
    detail: str
    """What ended the match on each side."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The result of a comparison."""

    requests: int
    differences: tuple[Difference, ...]
    ordered: int
    """Requests whose order of admission is known on both sides."""
    order_differs: Cause | None
    """None: it is the same."""
    first_out_of_order: str | None
    preemptions: tuple[int, int]
    """Real, simulated."""
    evicted_blocks: tuple[int | None, int | None]
    hit_tokens: tuple[int, int]
    arrivals_equal: bool
    """Every burst met both engines at the same step."""

    @property
    def equal(self) -> int:
        """Requests with as many cached tokens on both sides."""
        return self.requests - len(self.differences)

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        """Differences without a reason."""
        return tuple(each for each in self.differences if each.reason is Cause.UNEXPLAINED)

    @property
    def preemptions_close(self) -> bool:
        """Equal when the arrivals are; else within a tenth, or 3."""
        real, simulated = self.preemptions
        if self.arrivals_equal:
            return real == simulated
        return abs(real - simulated) <= max(ceil(_CLOSE_SHARE * real), _CLOSE_COUNT)

    @property
    def holds(self) -> bool:
        """The simulator does what real vLLM does."""
        return (
            not self.unexplained
            and self.order_differs is not Cause.UNEXPLAINED
            and self.preemptions_close
        )

    def document(self) -> dict[str, object]:
        """For JSON."""
        plain = asdict(self)
        for difference in plain["differences"]:
            difference["reason"] = difference["reason"].value
        plain["order_differs"] = self.order_differs.value if self.order_differs else None
        return plain | {"equal": self.equal, "holds": self.holds}


def compare(
    real: Recording, simulated: Recording, bursts: Sequence[Burst], limits: EngineLimits
) -> Parity:
    """Compare two recordings of these bursts, on engines of these limits."""
    testimonies = [_witness(each, bursts, limits) for each in (real, simulated)]
    witnesses = [witness for witness, _ in testimonies]
    arrivals_equal = testimonies[0][1] == testimonies[1][1]
    differences = []
    for name, answer in real.answers.items():
        tokens = answer.cached_tokens, simulated.answers[name].cached_tokens
        if tokens[0] == tokens[1]:
            continue
        attested = [
            witness is not None and witness.answers[name].cached_tokens == told
            for witness, told in zip(witnesses, tokens, strict=True)
        ]
        reason = Cause.ARRIVAL if all(attested) and not arrivals_equal else Cause.UNEXPLAINED
        differences.append(Difference(name, *tokens, reason, _detail(name, witnesses, attested)))
    ordered, out_of_order = _orders(real, simulated)
    order_differs = None
    if out_of_order is not None:
        pairs = zip((real, simulated), witnesses, strict=True)
        explained = not arrivals_equal and all(
            witness is not None and _orders(recording, witness)[1] is None
            for recording, witness in pairs
        )
        order_differs = Cause.ARRIVAL if explained else Cause.UNEXPLAINED
    return Parity(
        requests=len(real.answers),
        differences=tuple(differences),
        ordered=ordered,
        order_differs=order_differs,
        first_out_of_order=out_of_order,
        preemptions=(real.preemptions, simulated.preemptions),
        evicted_blocks=(real.evicted_blocks, simulated.evicted_blocks),
        hit_tokens=(real.hit_tokens, simulated.hit_tokens),
        arrivals_equal=arrivals_equal,
    )


def _witness(
    recording: Recording, bursts: Sequence[Burst], limits: EngineLimits
) -> tuple[Recording | None, list[Moment | None]]:
    """The model's run with the recording's arrivals, and the arrivals as the model sees them.

    The lag is the one with which the model agrees best with the recording.
    """
    best, fewest, came = None, len(recording.answers) + 1, recording.came
    for lag in _LAGS:
        try:
            witness = replay(bursts, limits, recording, lag=lag)
        except ParityError:
            continue  # a burst would arrive too late
        wrong = sum(
            witness.answers[name].cached_tokens != answer.cached_tokens
            for name, answer in recording.answers.items()
        )
        if wrong < fewest:
            best, fewest = witness, wrong
            came = [
                Moment(clock.request, clock.tokens + lag) if clock is not None else None
                for clock in recording.came
            ]
        if not wrong:
            break
    return best, came


def _detail(name: str, witnesses: Sequence[Recording | None], attested: Sequence[bool]) -> str:
    sides = [
        witness.stops[name] if witness is not None and agrees else "not as the model has it"
        for witness, agrees in zip(witnesses, attested, strict=True)
    ]
    return f"next block: real {sides[0]}, simulated {sides[1]}"


def _orders(one: Recording, other: Recording) -> tuple[int, str | None]:
    """How many requests both recordings have in order, and the first that differs."""
    if one.admitted is None or other.admitted is None:
        return 0, None
    both = set(one.admitted) & set(other.admitted)
    mine = [name for name in one.admitted if name in both]
    theirs = [name for name in other.admitted if name in both]
    return len(both), next((a for a, b in zip(mine, theirs, strict=True) if a != b), None)
