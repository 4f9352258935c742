"""Whose a line of a batch is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gateway.run import compose
from gateway.telemetry.tenant_metrics import TenantMetrics
from gateway.tenancy.batch_lines import BatchLines
from gateway.tenancy.keys import digest_of
from gateway.tenancy.worker import WorkerTenancy
from picker import names
from picker.request.rejection import Rejection
from tests.gateway.tenancy.parts import config_of, head_of

LINES = BatchLines("secret")


@pytest.mark.parametrize(
    "shown",
    ["", "secret", "secret;a", "secret;a;b", "wrong;a;b;c", ";a;b;c", "Secret;a;b;c", "é;a;b;c"],
)
def test_who_does_not_show_the_key_is_nobody(shown: str) -> None:
    assert LINES.owner_of(head_of({names.BATCH_LINE: shown})) is None
    assert BatchLines("").owner_of(head_of({names.BATCH_LINE: ";a;b;c"})) is None


def test_names_may_have_any_character() -> None:
    owner = LINES.owner_of(head_of({names.BATCH_LINE: "secret;a%3Bb;;Zo%C3%AB"}))
    assert owner is not None
    assert (owner.tenant, owner.key, owner.user) == ("a;b", "", "Zoë")


async def test_a_line_is_its_tenants_and_takes_idle_capacity_only() -> None:
    with tempfile.TemporaryDirectory() as folder:
        metrics = TenantMetrics(CollectorRegistry())
        tenancy = WorkerTenancy(
            lambda config: compose.picker_tenancy(config, metrics), Path(folder) / "a.sock", LINES
        )
        line = head_of({names.BATCH_LINE: "secret;acme;ci;ann"})
        assert tenancy.identify(line).idle_only
        assert not tenancy.identify(head_of({names.BATCH_LINE: "wrong;acme;ci;ann"})).idle_only
        keys = [{"id": "ci", "sha256": digest_of("sk-1").hex()}]
        config = config_of(identity={}, tenants=[{"name": "acme", "keys": keys}], state_dir=folder)
        await tenancy.configure(config)
        found = tenancy.identify(line)
        assert (found.tenant, found.key, found.user, found.idle_only) == ("acme", "ci", "ann", True)
        with pytest.raises(Rejection):
            tenancy.identify(head_of({names.BATCH_LINE: "wrong;acme;ci;ann"}))
        await tenancy.close()
