"""The tables of the experiments, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from statistics import fmean

from loadtests.lab.fairness import cases as of
from loadtests.lab.fairness.cases import Case
from loadtests.lab.fairness.figures import SIZES, jain

Values = Mapping[str, object]
Kept = Callable[[Case, str], Sequence[Values]]
"""The results of the seeds of a case's order that are done."""

Numbers = Sequence[float | None]
"""One for each seed."""


def page(cases: Sequence[Case], kept: Kept) -> str:
    """All tables, of those cases that are given. What is not done yet is left out, and said."""
    wanted = sum(len(case.orders) for case in cases)
    done = [len(kept(case, order)) for case in cases for order in case.orders]
    found = _Found(cases, kept)
    parts = [
        _greedy(found),
        _backlogged(found),
        _price(found),
        _overload(found),
        _deadlines(found),
        _sizes(found),
    ]
    text = "\n".join(part for part in parts if part)
    if len(set(done)) > 1 or 0 in done or not wanted:
        return f"**Not all runs are done.**\n\n{text}"
    return text


class _Found:
    """What is kept of the cases, by group and name."""

    def __init__(self, cases: Sequence[Case], kept: Kept) -> None:
        self._cases = {(case.group, case.name): case for case in cases}
        self._kept = kept

    def case(self, group: str, name: str) -> Case | None:
        return self._cases.get((group, name))

    def results(self, group: str, name: str, order: str) -> Sequence[Values]:
        case = self._cases.get((group, name))
        return [] if case is None else self._kept(case, order)

    def of_tenant(self, group: str, name: str, order: str, tenant: str, figure: str) -> Numbers:
        return [_tenant(each, tenant, figure) for each in self.results(group, name, order)]

    def of_all(self, group: str, name: str, order: str, figure: str) -> Numbers:
        return [_number(each.get(figure)) for each in self.results(group, name, order)]


def _greedy(found: _Found) -> str:
    rows: list[Sequence[str]] = []
    for level in of.LEVELS:
        alone = f"{level:g}, {of.ALONE}"
        apart = f"{level:g}, {of.APART}"
        beside = f"{level:g}, {of.BESIDE}"
        base = found.of_tenant(of.GREEDY, alone, "fair", "modest", "ttft_p99_s")
        part = found.of_tenant(of.GREEDY, apart, "fair", "modest", "ttft_p99_s")
        for name, order in (
            (alone, "fair"),
            (apart, "fair"),
            (apart, of.NO_QUEUE),
            *((beside, order) for order in of.ORDERS),
        ):
            if not found.results(of.GREEDY, name, order):
                continue
            cells = [
                found.of_tenant(of.GREEDY, name, order, "modest", figure)
                for figure in ("ttft_p50_s", "ttft_p99_s", "refused", "tokens_per_s")
            ]
            where = name.partition(", ")[2]
            rows.append(
                (
                    f"{level:g}",
                    where,
                    order,
                    _mean(cells[0], 2),
                    _spread(cells[1], 2),
                    _ratio(cells[1], base),
                    _ratio(cells[1], part),
                    _mean(cells[2], 0),
                    _mean(cells[3], 0),
                )
            )
    head = (
        "sends, of its share",
        "where",
        "order",
        "TTFT p50 s",
        "p99 s (least to most)",
        "p99 / alone",
        "p99 / alone on its part",
        "refused",
        "tokens/s",
    )
    return _section("A tenant that sends 10 times its share", head, rows)


def _backlogged(found: _Found) -> str:
    parts: list[str] = []
    for name, weights in (
        (of.EQUAL, {}),
        (of.WEIGHTS, of.WEIGHT_OF),
        (of.UNLIKE, {}),
    ):
        case = found.case(of.BACKLOGGED, name)
        if case is None:
            continue
        tenants = [sender.name for sender in case.senders]
        rows = [
            _backlogged_row(found, name, order, tenants, weights)
            for order in case.orders
            if found.results(of.BACKLOGGED, name, order)
        ]
        head = (
            "order",
            *(f"{tenant} tokens/s" for tenant in tenants),
            "Jain, tokens",
            "Jain, cost",
            "worst share off %",
            "gap, as known then",
            "gap, in the end",
            "largest request",
        )
        parts.append(_section(f"All wait: {name}", head, rows))
    return "\n".join(parts)


def _backlogged_row(
    found: _Found, name: str, order: str, tenants: Sequence[str], weights: Mapping[str, int]
) -> Sequence[str]:
    results = found.results(of.BACKLOGGED, name, order)
    tokens, cost = (
        [
            [(_tenant(each, one, figure) or 0.0) / weights.get(one, 1) for one in tenants]
            for each in results
        ]
        for figure in ("tokens_per_s", "cost_per_s")
    )
    off = [max(abs(one / fmean(each) - 1.0) for one in each) for each in tokens if any(each)]
    gaps = [_mapping(each.get("gap")) for each in results]
    return (
        order,
        *(
            _mean(found.of_tenant(of.BACKLOGGED, name, order, one, "tokens_per_s"), 0)
            for one in tenants
        ),
        _mean([jain(each) for each in tokens], 4),
        _mean([jain(each) for each in cost], 4),
        _mean([100.0 * each for each in off], 1),
        *(_mean([_number(gap.get(key)) for gap in gaps], 0) for key in _GAPS),
    )


_GAPS = ("believed", "most", "largest")


def _price(found: _Found) -> str:
    """Tokens of all tenants beside the same policy without an order, and without a queue."""
    names = [(of.BACKLOGGED, name) for name in (of.EQUAL, of.WEIGHTS, of.UNLIKE)]
    names += [(of.PREFIXES, "four tenants"), (of.SIZES, of.SIZES_NAME)]
    rows: list[Sequence[str]] = []
    for group, name in names:
        case = found.case(group, name)
        if case is None:
            continue
        first = found.of_all(group, name, "first-come", "tokens_per_s")
        none = found.of_all(group, name, of.NO_QUEUE, "tokens_per_s")
        for order in case.orders:
            ours = found.of_all(group, name, order, "tokens_per_s")
            if not ours:
                continue
            rows.append(
                (
                    f"{group}: {name}",
                    order,
                    _mean(ours, 0),
                    _ratio(ours, first),
                    _ratio(ours, none),
                    _mean(_scaled(found.of_all(group, name, order, "hit_rate"), 100.0), 1),
                )
            )
    head = ("case", "order", "tokens/s", "/ first-come", "/ no queue", "hit %")
    return _section("The price of fairness", head, rows)


def _overload(found: _Found) -> str:
    rows: list[Sequence[str]] = []
    unloaded = found.of_tenant(of.OVERLOAD, f"{of.LOADS[0]:g}", "fair", "critical", "ttft_p90_s")
    for load in of.LOADS:
        name = f"{load:g}"
        for order in of.ORDERS:
            results = found.results(of.OVERLOAD, name, order)
            if not results:
                continue
            critical = found.of_tenant(of.OVERLOAD, name, order, "critical", "ttft_p90_s")
            shed = [
                100.0
                * (_tenant(each, "sheddable", "refused") or 0.0)
                / max(1.0, _tenant(each, "sheddable", "requests") or 0.0)
                for each in results
            ]
            rows.append(
                (
                    name,
                    order,
                    _spread(critical, 2),
                    _ratio(critical, unloaded),
                    _mean(found.of_tenant(of.OVERLOAD, name, order, "critical", "refused"), 0),
                    _mean(shed, 1),
                    _mean(found.of_tenant(of.OVERLOAD, name, order, "sheddable", "ttft_p90_s"), 1),
                    _mean(found.of_tenant(of.OVERLOAD, name, order, "critical", "good_per_s"), 2),
                    _mean(found.of_tenant(of.OVERLOAD, name, order, "sheddable", "good_per_s"), 2),
                    _mean(found.of_all(of.OVERLOAD, name, order, "good_per_s"), 2),
                )
            )
    head = (
        "load",
        "order",
        "critical TTFT p90 s",
        "/ at load 0.5",
        "critical refused",
        "sheddable refused %",
        "sheddable TTFT p90 s",
        "critical good/s",
        "sheddable good/s",
        "good/s",
    )
    return _section("Overload: critical and sheddable requests", head, rows)


def _deadlines(found: _Found) -> str:
    rows: list[Sequence[str]] = []
    for name, order in (
        (of.WITH, "fair"),
        (of.WITHOUT, "fair"),
        (of.WITHOUT, of.NO_QUEUE),
    ):
        for load in ("1", "2"):
            title = f"{load}, {name}"
            good = found.of_all(of.DEADLINES, title, order, "good_per_s")
            if not good:
                continue
            knee = found.of_all(of.DEADLINES, f"1, {name}", order, "good_per_s")
            rows.append(
                (
                    name,
                    order,
                    load,
                    _spread(good, 2),
                    _ratio(good, knee),
                    _mean(found.of_all(of.DEADLINES, title, order, "tokens_per_s"), 0),
                    _mean(found.of_tenant(of.DEADLINES, title, order, "chat", "refused"), 0),
                )
            )
    head = ("requests", "order", "load", "good/s", "/ at load 1", "tokens/s", "refused")
    return _section("Overload: one class", head, rows)


def _sizes(found: _Found) -> str:
    rows: list[Sequence[str]] = []
    for order in of.ORDERS:
        results = found.results(of.SIZES, of.SIZES_NAME, order)
        for tenant, (number, least) in product(("mixed", "small"), enumerate(SIZES)):
            sizes = [_size(each, tenant, number) for each in results]
            if not any(_number(each.get("requests")) for each in sizes):
                continue
            cells = {key: [_number(each.get(key)) for each in sizes] for key in _SIZE_FIGURES}
            rows.append(
                (
                    order,
                    tenant,
                    f"{least:,}",
                    _mean(cells["requests"], 0),
                    _mean(cells["refused"], 0),
                    *(_mean(cells[key], 2) for key in _SIZE_FIGURES[2:]),
                )
            )
    head = (
        "order",
        "tenant",
        "prompt tokens from",
        "requests",
        "refused",
        "wait p50 s",
        "wait p99 s",
        "TTFT p50 s",
        "TTFT p99 s",
    )
    return _section("Very large requests", head, rows)


_SIZE_FIGURES = ("requests", "refused", "wait_p50_s", "wait_p99_s", "ttft_p50_s", "ttft_p99_s")


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under a heading; nothing without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join(
        (f"### {title}\n", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines, "")
    )


def _tenant(result: Values, tenant: str, figure: str) -> float | None:
    return _number(_mapping(_mapping(result.get("tenants")).get(tenant)).get(figure))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _size(result: Values, tenant: str, number: int) -> Values:
    sizes = _mapping(result.get("sizes")).get(tenant)
    return _mapping(sizes[number]) if isinstance(sizes, list) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _known(values: Numbers) -> list[float]:
    return [value for value in values if value is not None]


def _scaled(values: Numbers, factor: float) -> Numbers:
    return [None if value is None else value * factor for value in values]


def _mean(values: Numbers, digits: int) -> str:
    known = _known(values)
    return f"{fmean(known):,.{digits}f}" if known else "-"


def _spread(values: Numbers, digits: int) -> str:
    known = _known(values)
    if not known:
        return "-"
    return f"{fmean(known):,.{digits}f} ({min(known):,.{digits}f} to {max(known):,.{digits}f})"


def _ratio(values: Numbers, bases: Numbers) -> str:
    """Of the means."""
    known, base = _known(values), _known(bases)
    return f"{fmean(known) / fmean(base):.2f}" if known and base and fmean(base) else "-"
