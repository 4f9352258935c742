"""All problems of a file are reported at once, and only those that are problems of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.reading.accept import accept
from gateway.config.reading.problems import ConfigError
from tests.gateway.config.texts import written


def problems(folder: Path, text: str) -> dict[str, str]:
    """What is expected at each key."""
    with pytest.raises(ConfigError) as refused:
        accept(written(folder, text), environment={})
    found = refused.value.problems
    assert all(problem.line > 0 for problem in found)
    assert len({problem.key for problem in found}) == len(found)
    return {problem.key: f"{problem.expected} ({problem.hint})" for problem in found}


def test_every_kind_of_problem_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        listen: {port: "8080"}
        pools:
          - {name: a, type: static, endpoints: ["http://x:1"]}
          - {name: b, type: static}
          - {name: c, type: simulated, profile: nope}
          - {name: c, type: simulated}
          - name: d
            type: process
            command: [x]
            restart: {initial_backoff_s: 9, max_backoff_s: 1, stable_after_s: "x"}
        models:
          - {name: alias, targets: [{model: m, pool: b}, {model: m, pool: zz}]}
        scheduling: {profiles: {p: {scorers: [{name: nothing, weight: 1}]}}}
        limits: {tokenizers: [{model: m, file: missing.json}]}
        admin: {address: 0.0.0.0, token: {env: NOT_SET_ANYWHERE}}
        """,
    )
    assert found.keys() == {
        "listen.port",
        "pools[0].endpoints[0]",
        "pools[1].endpoints",
        "pools[2].profile",
        "pools[3].name",
        "pools[4].command",
        "pools[4].restart.max_backoff_s",
        "pools[4].restart.stable_after_s",
        "models[0].targets[1].pool",
        "scheduling.profiles.p.scorers[0].name",
        "limits.tokenizers[0].file",
        "admin.token",
    }
    assert "pools[2] has it already" in found["pools[3].name"], "places are those of the file"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        pytest.param(
            "pools: [{name: a, type: simulate}]\n"
            "models: [{name: x, targets: [{model: m, pool: a}]}]",
            {"pools[0].type"},
            id="a name that was left out",
        ),
        pytest.param(
            "pools: [{name: a, type: simulated, replicas: many}]\n"
            "models: [{name: x, targets: [{model: m, pool: a}]}]",
            {"pools[0].replicas"},
            id="a section that goes on without one key",
        ),
        pytest.param(
            "identity: {jwt: {issuer: a, jwks_uri: 'ftp://x'}}",
            {"identity.jwt.jwks_uri"},
            id="a part that its section needs",
        ),
        pytest.param("pools: 7\nlisten: 8", {"pools", "listen"}, id="whole sections"),
        pytest.param("[]", {""}, id="no mapping at all"),
    ],
)
def test_what_only_follows_is_no_problem_of_its_own(
    text: str, keys: set[str], tmp_path: Path
) -> None:
    assert problems(tmp_path, text).keys() == keys
