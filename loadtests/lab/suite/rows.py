"""The rows of the standing comparison: workloads and loads, and pools in trouble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.lab.setting import Seeing, Troubles
from loadtests.lab.source import Extent, Level, LevelKind, Source
from loadtests.lab.summary import Slo

REPLICAS = 8
PROFILE = "qwen3-32b-tp2-h100"
LORA_SLOTS = 4
"""Of a replica, for workloads with adapters: with 8, the 50 of `lora-mix` would all fit at once."""

BASELINES = (
    "weighted",
    "llm-d-token-aware",
    "llm-d-legacy",
    "dynamo",
    "cache-aware",
    "production-stack",
    "aibrix-prefix-cache",
    "least-requests",
    "round-robin",
)
AUTO = "auto"

_LOADS = ("comfortable", "knee", "past the knee")
_SHARES = (0.6, 1.0, 1.3)
"""Of the load at the knee."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison: what is sent, and to what."""

    group: str
    """Rows of one group are compared with each other."""
    name: str
    source: Source
    level: Level
    slo: Slo
    extent: Extent
    policies: tuple[str, ...]
    seeing: Seeing = field(default_factory=Seeing)
    troubles: Troubles = field(default_factory=Troubles)

    @property
    def title(self) -> str:
        """Unique among the rows."""
        return f"{self.group}, {self.name}"


@dataclass(frozen=True, slots=True)
class _Workload:
    title: str
    source: str
    knee: float
    """Requests/s, of a trace times the recorded speed: about the highest load of which the best
    policy answers 90 % within the SLO."""
    slo: Slo = field(default_factory=Slo)
    duration_s: float = 300.0
    kind: LevelKind = LevelKind.RATE

    def level(self, share: float) -> Level:
        return Level(float(f"{self.knee * share:.3g}"), self.kind)


_PATIENT = Slo(10.0, 0.1)
"""Of agents and documents: nobody reads along."""


def _workloads(traces: Path) -> tuple[_Workload, ...]:
    mooncake = traces / "mooncake_conversation_first_half.jsonl"
    azure = traces / "azure_llm_2023_code.csv"
    return (
        _Workload("interactive-chat", "interactive-chat", 28, duration_s=150.0),
        _Workload("code-generation", "code-generation", 1.3),
        _Workload("reasoning", "reasoning", 3.5),
        _Workload("fixed-corpus-saas", "fixed-corpus-saas", 10.5),
        _Workload("agentic-bursts", "agentic-bursts", 3, _PATIENT),
        _Workload("lora-mix", "lora-mix", 50, duration_s=120.0),
        _Workload("multi-tenant", "multi-tenant", 11),
        _Workload(
            "Mooncake, first half", f"trace:{mooncake}", 1.6, _PATIENT, 700.0, LevelKind.SPEED
        ),
        _Workload("Azure code", f"trace:{azure}", 2.4, Slo(), 500.0, LevelKind.SPEED),
    )


USUAL = "as it should be"
_TROUBLED = (
    (USUAL, Seeing(), Troubles()),
    ("half of the replicas at half speed", Seeing(), Troubles(slow_share=0.5, slow_speed=0.5)),
    ("one replica at 0.3 from 100 s on", Seeing(), Troubles(degrade_at_s=100.0, degrade_speed=0.3)),
    ("metrics every 50 ms", Seeing(0.05), Troubles()),
    ("metrics every 1 s", Seeing(1.0, 1.0), Troubles()),
    ("metrics every 5 s", Seeing(5.0, 5.0), Troubles()),
    ("metrics lost from 60 s on", Seeing(), Troubles(deaf_from_s=60.0)),
)
_TROUBLED_WORKLOADS = (("interactive-chat", 0.6), ("multi-tenant", 0.6), ("agentic-bursts", 0.6))
"""With the share of the knee: a pool with slow replicas has a lower one."""


def load_rows(traces: Path, policies: Sequence[str]) -> Iterator[Row]:
    """Every workload under each load."""
    for workload in _workloads(traces):
        for name, share in zip(_LOADS, _SHARES, strict=True):
            level = workload.level(share)
            yield Row(
                workload.title,
                name,
                Source.parse(workload.source),
                level,
                workload.slo,
                Extent(duration_s=workload.duration_s),
                tuple(policies),
            )


def troubled_rows(traces: Path) -> Iterator[Row]:
    """Pools in trouble, `auto` beside least-requests."""
    by_title = {workload.title: workload for workload in _workloads(traces)}
    for title, share in _TROUBLED_WORKLOADS:
        workload = by_title[title]
        for name, seeing, troubles in _TROUBLED:
            yield Row(
                f"{title} in trouble",
                name,
                Source.parse(workload.source),
                workload.level(share),
                workload.slo,
                Extent(duration_s=workload.duration_s),
                (AUTO, "least-requests"),
                seeing,
                troubles,
            )
