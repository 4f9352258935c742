"""Why one replica won, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from picker.request.choice import Choice

Row = Mapping[str, float]


def why(prompt_tokens: float, choice: Choice, rows: Mapping[str, Row]) -> str:
    """A sentence or a few. They say what the policy weighed, and not how: that is its own."""
    chosen, own = choice.tried[0], rows.get(choice.tried[0])
    said = []
    if choice.session_endpoint == chosen:
        said.append("The request's session is bound to it.")
    elif choice.session_endpoint:
        said.append(f"The request's session is bound to {choice.session_endpoint}.")
    others = {address: row for address, row in rows.items() if address != chosen}
    if own is None or (choice.candidates > 1 and not others):
        said.append(f"The policy {choice.policy} put it first and does not say why.")
        return " ".join(said)
    if choice.candidates == 1:
        return " ".join(("It was the only candidate.", *said))
    best = max(others, key=lambda address: others[address]["score"])
    other = others[best]
    equal = sum(row["score"] == own["score"] for row in others.values())
    of = f"of {choice.candidates:,} candidates"
    if other["score"] > own["score"]:
        said.insert(
            0,
            f"It has not the highest score {of}: {_score(own)} against {_score(other)} of {best}."
            f" The policy {choice.policy} orders them in another way, such as by chance.",
        )
    elif equal:
        if len(rows) < choice.candidates and equal == len(others):
            more = "many more have"
        else:
            more = "1 more has" if equal == 1 else f"{equal} more have"
        said.insert(0, f"Its score, {_score(own)}, is the highest {of}, and {more} the same.")
        same = [row for row in others.values() if row["score"] == own["score"]]
        if all(_same(own, row) for row in same):
            return " ".join((*said, "They are alike in everything; it was taken by chance."))
    else:
        said.insert(
            0, f"It has the highest score {of}: {_score(own)}; the next, {best}, {_score(other)}."
        )
    better, worse = _compared(prompt_tokens, own, other)
    if better:
        said.append(f"Better than there: {', '.join(better)}.")
    if worse:
        said.append(f"Worse than there: {', '.join(worse)}.")
    return " ".join(said)


def _compared(prompt_tokens: float, own: Row, other: Row) -> tuple[list[str], list[str]]:
    """What speaks for one candidate against another, and what against it."""
    better: list[str] = []
    worse: list[str] = []

    def less(name: str, text: str) -> None:
        """Less is better; what differs by less than a hundredth is the same."""
        here, there = own.get(name), other.get(name)
        if here is None or there is None:
            return
        if abs(here - there) > 0.01 * max(abs(here), abs(there)):
            (better if here < there else worse).append(text.format(_said(name, here, there)))

    cached, cached_there = (min(row["matched_tokens"], prompt_tokens) for row in (own, other))
    if cached != cached_there:
        text = (
            f"{cached:,.0f} of {prompt_tokens:,.0f} prompt tokens are cached ({cached_there:,.0f})"
        )
        (better if cached > cached_there else worse).append(text)
    less("backlog_tokens", "{} tokens are to be prefilled before it")
    less("in_flight_requests", "{} requests in flight")
    less("waiting_requests", "{} requests in the engine's queue")
    less("predicted_ttft_s", "first token expected after {}")
    less("predicted_tpot_s", "{} a token expected")
    less("harm_s", "harm to others {}")
    return better, worse


def _said(name: str, here: float, there: float) -> str:
    if name.endswith("_s"):
        return f"{_time(here)} ({_time(there)})"
    return f"{here:,.0f} ({there:,.0f})"


def _time(seconds: float) -> str:
    if abs(seconds) >= 10:
        return f"{seconds:,.0f} s"
    if abs(seconds) >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.3g} ms"


def _score(row: Row) -> str:
    return f"{row['score']:.4g}"


def _same(one: Row, other: Row) -> bool:
    return all(other[name] == value for name, value in one.items())
