"""``penstock queue``."""

from __future__ import annotations

import pytest

from picker.admission.sight import PoolSight
from tests.gateway.admin.place import Status
from tests.gateway.admin.source import QUEUE
from tests.gateway.commands.terminal import Terminal, cells


async def test_who_waits_and_how_long(penstock: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Status, "queues", lambda _: [QUEUE, PoolSight("idle", 0.0)])
    shown = await penstock("queue")
    first, second, *table = shown.out.splitlines()
    assert first == "main: 15 waiting, 75% of the replicas are full."
    assert second == "idle: 0 waiting, 0% of the replicas are full."
    assert [cells(line) for line in table] == [
        ["pool", "priority", "tenant", "waiting", "tokens", "oldest", "next waits"],
        ["main", "5", "acme", "3", "3000", "4.0 s", "2.5 s"],
        ["main", "5", "(others)", "2", "20", "1.0 s", "0.5 s"],
        ["main", "-1", "bulk", "10", "90000", "12.2 s", "30.0 s"],
    ]
    assert '"predicted_wait_s": 30.0' in (await penstock("queue", "--json")).out


async def test_no_pool_has_a_queue(penstock: Terminal) -> None:
    assert (await penstock("queue")).out.splitlines() == ["No pool has a queue."]
