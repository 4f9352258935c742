"""Pools."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.reading.load import load
from gateway.config.schema.pools import SimulatedPool
from tests.gateway.config.texts import PRIVATE, Refusal, assert_refused, loaded, only, written


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: static, endpoints: ['http://a:1']}\n",
                (2, 39),
                "pools[0].endpoints[0]",
                '"http://a:1"',
                "host:port",
                "give it without http://",
            ),
            id="url for an endpoint",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: static, endpoints: ['a:1', 'a:1']}\n",
                (2, 46),
                "pools[0].endpoints[1]",
                '"a:1"',
                "each one once",
                "a:1 is already there",
            ),
            id="endpoint twice",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: process, command: [vllm]}\n",
                (2, 37),
                "pools[0].command",
                "a list of 1",
                "{port} in an argument",
                "add --port {port}",
            ),
            id="no port",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: simulated, engine_profile: mine.yaml}\n",
                (2, 46),
                "pools[0].engine_profile",
                '"mine.yaml"',
                "a readable file",
                "looked at ",
            ),
            id="no profile",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: simulated, engine_profile: H 100}\n",
                (2, 46),
                "pools[0].engine_profile",
                '"H 100"',
                "the name of a built-in profile",
                None,
            ),
            id="profile name",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: simulated, adapters: [a], max_loras: 0}\n",
                (2, 56),
                "pools[0].max_loras",
                "0",
                "1 or more, or null, with adapters",
                None,
            ),
            id="no slot for adapters",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: simulated, num_blocks: 10, max_model_len: 161}\n",
                (2, 61),
                "pools[0].max_model_len",
                "161",
                "at most 160",
                None,
            ),
            id="longer than the KV space",
        ),
    ],
)
def test_a_problem_has_its_position_and_says_what_is_right(
    tmp_path: Path, refusal: Refusal
) -> None:
    refusal.check(tmp_path)


def test_a_simulated_engines_profile_is_a_name_or_a_file_beside_the_configuration(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, "pools: [{name: a, type: simulated, engine_profile: own.yaml}]\n")
    own = file.parent / "own.yaml"
    own.write_text("name: own\n")
    named = written(
        tmp_path, "pools: [{name: a, type: simulated, engine_profile: qwen3-32b-tp2-h100}]\n"
    )
    assert _engine_profile(named) == "qwen3-32b-tp2-h100"
    file = written(tmp_path, "pools: [{name: a, type: simulated, engine_profile: own.yaml}]\n")
    assert _engine_profile(file) == str(own)


def _engine_profile(file: Path) -> str:
    (pool,) = load(file).pools
    assert isinstance(pool, SimulatedPool)
    return pool.engine_profile


@pytest.mark.parametrize("name", ["HF_TOKEN", "OPENAI_API_KEY", "db_password"])
def test_a_replicas_variable_with_the_name_of_a_secret_takes_no_text(
    tmp_path: Path, name: str
) -> None:
    pool = "pools: [{{name: a, type: process, command: [x, '{{port}}'], env: {{{env}}}}}]\n"
    problem = only(written(tmp_path, pool.format(env=f"{name}: {PRIVATE}")))
    assert problem.key == f"pools[0].env.{name}"
    assert "{env: NAME} or {file: PATH}" in problem.expected
    assert PRIVATE not in str(problem)
    text = pool.format(env=f"{name}: {{env: THERE}}, KEYBOARD: plain")
    assert loaded(tmp_path, text, {"THERE": PRIVATE}).pools[0].name == "a"


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (
            "pools: [{name: a, type: process, replicas: 9, first_port: 65530,command: ['{port}']}]",
            "pools[0].first_port",
            "at most 65527",
        ),
    ],
)
def test_ports_that_do_not_exist(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)


@pytest.mark.parametrize(
    "text",
    [
        "pools: [{name: a, type: static, endpoints: []}]",
        "pools: [{name: a, type: process, command: [x], env: {PORT: '{port}'}}]",
    ],
)
def test_what_is_accepted(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)
