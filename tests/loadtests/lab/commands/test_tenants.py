"""``penstock lab tenants`` as far as it goes without a gateway."""

from typer.testing import CliRunner

from loadtests.lab.command import app
from loadtests.lab.fairness.live import SITUATIONS, TwoTenants, _changed, _streams
from loadtests.lab.live.replicas import ReplicaFleet

PLAN = TwoTenants(
    per_s=2.0,
    greedy_per_s=40.0,
    prompt_tokens=100.0,
    answer_tokens=50.0,
    duration_s=20.0,
    ttl_s=20.0,
    client_timeout_s=30.0,
    simulated=None,
    replicas=1,
)


def test_the_modest_tenant_sends_the_same_in_every_situation() -> None:
    sent: list[list[tuple[float, int]]] = []
    for situation in SITUATIONS:
        requests = _streams(PLAN, situation).traffic().take(20.0)
        sent.append([(r.arrival_s, r.prompt_tokens) for r in requests if r.tenant == "modest"])
        assert any(r.tenant == "greedy" for r in requests) == situation.greedy
    assert sent[0]
    assert sent == [sent[0]] * len(SITUATIONS)


def test_only_the_queue_differs_between_situations() -> None:
    fleet = ReplicaFleet(None, ["127.0.0.1:1"])  # type: ignore[arg-type]
    with_it, without = (_changed(PLAN, situation, fleet) for situation in SITUATIONS[1:])
    assert with_it.pop("pools") != without.pop("pools")
    assert with_it == without


def test_a_replica_that_is_not_there_is_told_in_a_line() -> None:
    words = ["tenants", "--share", "1", "--replica", "127.0.0.1:9"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "replica 127.0.0.1:9: " in result.stderr
