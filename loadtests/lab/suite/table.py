"""The page of the standing comparison: who is best in each row, and where `auto` is behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from loadtests.lab.suite.rows import AUTO, LORA_SLOTS, PROFILE, REPLICAS, USUAL, Row

Values = Mapping[str, float | None]
Kept = Callable[[Row, str], Sequence[Values]]
"""The figures of the seeds of a row's policy that are done."""

_NEAR = 0.05
"""As good as the best baseline is whoever is no farther from it than this share."""


@dataclass(frozen=True, slots=True)
class _Figure:
    name: str
    head: str
    more_is_better: bool
    digits: int
    scale: float = 1.0

    def shown(self, value: float | None) -> str:
        return "-" if value is None else f"{value * self.scale:,.{self.digits}f}"


_JUDGED = (
    _Figure("ttft_p90_s", "TTFT p90 s", False, 2),
    _Figure("tpot_p90_s", "TPOT p90 ms", False, 1, 1000.0),
    _Figure("goodput_per_s", "goodput /s", True, 2),
    _Figure("tokens_per_s", "tokens/s", True, 0),
)
_SHOWN = (
    *_JUDGED,
    _Figure("ttft_p50_s", "TTFT p50 s", False, 2),
    _Figure("ttft_p99_s", "TTFT p99 s", False, 2),
    _Figure("largest_ttft_p99_s", "largest tenth p99 s", False, 1),
    _Figure("hit_rate", "hit %", True, 1, 100.0),
    _Figure("captured_reuse", "captured %", True, 1, 100.0),
    _Figure("ttft_error", "TTFT error %", False, 1, 100.0),
    _Figure("tpot_error", "TPOT error %", False, 1, 100.0),
    _Figure("failed", "failed", False, 1),
)


def page(
    command: str,
    rows: Sequence[Row],
    troubled: Sequence[Row],
    seeds: Sequence[int],
    kept: Kept,
) -> str:
    """The whole page, in Markdown. What is not done yet is left out, and said."""
    parts = [_head(command, rows, seeds, kept), _summary(rows, kept), _overall(rows, kept)]
    if troubled:
        parts.append(_troubles(troubled, kept))
    parts.append("## All figures\n")
    parts += [_details(row, kept) for row in rows]
    return "\n".join(parts)


def _head(command: str, rows: Sequence[Row], seeds: Sequence[int], kept: Kept) -> str:
    wanted = sum(len(row.policies) for row in rows) * len(seeds)
    done = sum(len(kept(row, policy)) for row in rows for policy in row.policies)
    state = "" if done == wanted else f" **Only {done} of {wanted} runs are done.**"
    return (
        "# Policies compared\n\n"
        f"{REPLICAS} simulated replicas of `{PROFILE}` ({LORA_SLOTS} LoRA slots each), seeds"
        f" {seeds[0]} to {seeds[-1]}, means over the seeds.{state} Made by\n\n"
        f"```\n{command}\n```\n\n"
        "Before `auto` and `weighted` requests wait in the picker's queue, as in life; the others"
        " are as they ship.\n"
        "Goodput counts requests within the row's objectives; refused ones are missed. Baselines"
        " have their routers'\nown signals: llm-d hears each first token and has the prefill speed"
        " of the profile. A seed changes everything\nof a workload of the catalogue; of a trace it"
        ' moves arrivals within the gaps between them, and nothing else.\n"captured" is the share'
        ' of cached tokens that the most cached replica of each decision had. "bound" is the\n'
        "goodput that no routing exceeds (`loadtests/lab/bound.py`), loose where answers are long."
        "\n"
    )


def _summary(rows: Sequence[Row], kept: Kept) -> str:
    lines = [
        "## `auto` beside the best baseline of each row\n",
        "**Bold**: `auto` is behind by more than 5 %.\n",
        "| workload | load | " + " | ".join(f.head for f in _JUDGED) + " | goodput / bound |",
        "|---" * (len(_JUDGED) + 3) + "|",
    ]
    for row in rows:
        means = _means(row, kept)
        if AUTO not in means or len(means) < 2:
            continue
        cells = [_versus(figure, means) for figure in _JUDGED]
        bound = means[AUTO].get("bound_per_s")
        good = means[AUTO].get("goodput_per_s")
        share = f"{good / bound:.2f}" if bound and good is not None else "-"
        lines.append(
            f"| {row.group} | {row.name}, {row.level.label} | {' | '.join(cells)} | {share} |"
        )
    return "\n".join(lines) + "\n"


def _versus(figure: _Figure, means: Mapping[str, Values]) -> str:
    ours = means[AUTO].get(figure.name)
    best = _best(figure, means)
    if ours is None or best is None:
        return "-"
    name, theirs = best
    more, less = (theirs, ours) if figure.more_is_better else (ours, theirs)
    behind = more / less - 1.0 if less else float(more > 0)
    text = f"{figure.shown(ours)} / {figure.shown(theirs)} {name}"
    return f"**{text}**" if behind > _NEAR else text


def _best(figure: _Figure, means: Mapping[str, Values]) -> tuple[str, float] | None:
    found = [
        (value, name)
        for name, values in means.items()
        if name != AUTO and (value := values.get(figure.name)) is not None
    ]
    if not found:
        return None
    value, name = max(found) if figure.more_is_better else min(found)
    return name, value


def _overall(rows: Sequence[Row], kept: Kept) -> str:
    """How each policy does over all rows: its mean distance from the best of each row."""
    losses: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        means = _means(row, kept)
        for figure in _JUDGED:
            known = [v for values in means.values() if (v := values.get(figure.name)) is not None]
            if not known:
                continue
            best = max(known) if figure.more_is_better else min(known)
            for name, values in means.items():
                value = values.get(figure.name)
                if value is None or best <= 0:
                    continue
                loss = 1 - value / best if figure.more_is_better else 1 - best / value
                losses.setdefault(name, {}).setdefault(figure.name, []).append(loss)
    lines = [
        "## Over all rows\n",
        "How far each policy is from the best of a row, in % of the larger value; mean of rows.\n",
        "| policy | " + " | ".join(figure.head for figure in _JUDGED) + " | mean |",
        "|---" * (len(_JUDGED) + 2) + "|",
    ]
    ranked = sorted(losses.items(), key=lambda each: fmean(map(fmean, each[1].values())))
    for name, found in ranked:
        cells = [f"{100 * fmean(found[f.name]):.1f}" if f.name in found else "-" for f in _JUDGED]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {100 * fmean(map(fmean, found.values())):.1f} |"
        )
    return "\n".join(lines) + "\n"


def _troubles(rows: Sequence[Row], kept: Kept) -> str:
    policies = rows[0].policies
    heads = " | ".join(f"{policy} goodput /s | loss % | TTFT p90 s" for policy in policies)
    lines = [
        "## Pools in trouble\n",
        "Loss: of goodput, against the same pool as it should be.\n",
        f"| workload | trouble | {heads} |",
        "|---" * (2 + 3 * len(policies)) + "|",
    ]
    usual: dict[tuple[str, str], float] = {}
    for row in rows:
        cells: list[str] = []
        for policy in policies:
            values = _mean(kept(row, policy))
            good = values.get("goodput_per_s")
            if good is None:
                cells += ["-"] * 3
                continue
            if row.name == USUAL:
                usual[row.group, policy] = good
            before = usual.get((row.group, policy))
            loss = f"{100 * (1 - good / before):.1f}" if before else "-"
            p90_s = values.get("ttft_p90_s")
            cells += [f"{good:.2f}", loss, "-" if p90_s is None else f"{p90_s:.2f}"]
        lines.append(
            f"| {row.group.removesuffix(' in trouble')}, {row.level.label} | {row.name} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _details(row: Row, kept: Kept) -> str:
    means = _means(row, kept)
    bounds = [v for values in means.values() if (v := values.get("bound_per_s")) is not None]
    arrived = [v for values in means.values() if (v := values.get("arrived_per_s")) is not None]
    figures = [
        f for f in _SHOWN if any(values.get(f.name) is not None for values in means.values())
    ]
    bound = f", bound {max(bounds):.2f}/s" if bounds else ""
    came = f", arrived {min(arrived):.2f} to {max(arrived):.2f}/s" if arrived else ""
    lines = [
        f"### {row.title}: {row.level.label}\n",
        f"TTFT {row.slo.ttft_s:g} s, {1000 * row.slo.tpot_s:g} ms a token{came}{bound}.\n",
        "| policy | " + " | ".join(figure.head for figure in figures) + " |",
        "|---" * (len(figures) + 1) + "|",
    ]
    ranked = sorted(means.items(), key=lambda each: -(each[1].get("goodput_per_s") or 0.0))
    for name, values in ranked:
        cells = [figure.shown(values.get(figure.name)) for figure in figures]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _means(row: Row, kept: Kept) -> dict[str, Values]:
    found = {policy: kept(row, policy) for policy in row.policies}
    return {policy: _mean(values) for policy, values in found.items() if values}


def _mean(seeds: Sequence[Values]) -> dict[str, float | None]:
    """The mean over the seeds that have the figure."""
    found: dict[str, float | None] = {}
    for name in seeds[0] if seeds else ():
        known = [value for seed in seeds if (value := seed.get(name)) is not None]
        found[name] = fmean(known) if known else None
    reading, writing = found.get("input_tokens_per_s"), found.get("output_tokens_per_s")
    if reading is not None and writing is not None:
        found["tokens_per_s"] = reading + writing
    return found
