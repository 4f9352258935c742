"""Tenants whose requests do not depend on each other."""

from __future__ import annotations

from loadtests.workloads.catalogue import interactive_chat
from loadtests.workloads.streams import Stream, Streams


def sent(*streams: Stream) -> dict[str, list[tuple[float, int]]]:
    traffic = Streams(streams, seed=1, duration_s=60.0).traffic()
    found: dict[str, list[tuple[float, int]]] = {}
    while (at_s := traffic.next_s()) is not None and at_s < 60.0:
        for request in traffic.take(at_s):
            found.setdefault(request.tenant, []).append((request.arrival_s, request.prompt_tokens))
    return found


def test_what_one_sends_is_the_same_whoever_sends_beside_it() -> None:
    modest = Stream("modest", interactive_chat(1, name="modest"), 2.0)
    greedy = Stream("greedy", interactive_chat(1, name="greedy"), 20.0, from_s=20.0)
    alone, beside = sent(modest), sent(greedy, modest)
    assert beside["modest"] == alone["modest"]
    assert 80 < len(alone["modest"]) < 160
    assert 700 < len(beside["greedy"]) < 900
    assert min(at_s for at_s, _ in beside["greedy"]) >= 20.0
