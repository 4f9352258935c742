"""``penstock status``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.admin.status import (
    EndpointStatus,
    GatewayStatus,
    PoolStatus,
    PredictionStatus,
    ShadowStatus,
)
from tests.gateway.admin.place import Status
from tests.gateway.commands.terminal import Terminal, cells

BREAKER = "breaker open for llama, for 4 s more: 5 failures in a row, the last one: status 500"
POOL = PoolStatus(
    "chat",
    "static",
    endpoints=(
        EndpointStatus(
            "10.0.0.1:8000", True, in_flight_requests=3, running_requests=2.0, cache="exact"
        ),
        EndpointStatus("10.0.0.2:8000", True, breaker=BREAKER, cache="events missing"),
        EndpointStatus("10.0.0.3:8000", False, reason="cannot connect"),
        EndpointStatus("10.0.0.4:8000", True, draining=True, reason="draining"),
    ),
)


async def test_each_replica_and_why_it_gets_nothing(
    penstock: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Status().status()

    def status(_: Status) -> GatewayStatus:
        return replace(whole, pools=(POOL,))

    monkeypatch.setattr(Status, "status", status)
    shown = await penstock("status")
    first, *table = shown.out.splitlines()
    assert first == "Ready."
    assert [cells(line) for line in table] == [
        ["pool", "replica", "state", "in flight", "running", "waiting", "cache", "why"],
        ["chat", "10.0.0.1:8000", "serving", "3", "2", "0", "exact"],
        ["chat", "10.0.0.2:8000", "failing", "0", "0", "0", "events missing", BREAKER],
        ["chat", "10.0.0.3:8000", "out", "0", "0", "0", "approximate", "cannot connect"],
        ["chat", "10.0.0.4:8000", "draining", "0", "0", "0", "approximate", "draining"],
    ]
    predictions = (PredictionStatus("llama", 0.0712, None),)
    shadow = ShadowStatus("auto", 5, 2, 0, 1, 3, "ValueError: no")
    monkeypatch.setattr(
        Status,
        "status",
        lambda _: replace(whole, pools=(replace(POOL, predictions=predictions, shadow=shadow),)),
    )
    *_, predicted, beside = (await penstock("status")).out.splitlines()
    assert predicted == (
        "Pool chat, llama: half of the predictions are off by less than 7.1 % (first token) and"
        " (unknown) (time per token)."
    )
    assert beside == (
        "Pool chat, shadow auto: the same choice 5 times, another 2, none 0; skipped 3, failed 1;"
        " the last one: ValueError: no."
    )
    monkeypatch.setattr(Status, "status", status)
    as_json = await penstock("status", "--json")
    assert BREAKER in as_json.out


async def test_not_ready(penstock: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(Status().status(), not_ready=("envoy is starting", "no picker is ready"))
    monkeypatch.setattr(Status, "status", lambda _: whole)
    shown = await penstock("status")
    assert shown.out.splitlines() == ["Not ready: envoy is starting; no picker is ready"]
