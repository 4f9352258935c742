"""What a person gets for a configuration file: a Config, or every problem in its place."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.config import Config, schema_json
from gateway.config.reading.accept import accept
from gateway.config.reading.load import load
from gateway.config.reading.problems import ConfigError, Problem
from gateway.config.schema.pools import ProcessPool, SimulatedPool, StaticPool

EXAMPLES = sorted((Path(__file__).parents[3] / "deploy" / "examples").glob("*.yaml"))

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "penstock.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return written


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        accept(path, environment={})
    return caught.value.problems


def only(path: Path) -> Problem:
    (problem,) = problems(path)
    return problem


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(path: Path) -> None:
    assert accept(path, environment={}).pools


def test_an_empty_file_is_the_defaults(write: Write) -> None:
    for text in ("", "# nothing\n"):
        path = write(text)
        assert load(path) == Config(state_dir=path.parent / "penstock-state")


def test_the_state_is_beside_the_file_or_where_it_says(write: Write) -> None:
    path = write("")
    assert load(path).state_file == path.parent / "penstock-state" / "penstock.db"
    path = write("state_dir: there")
    assert load(path).state_file == path.parent / "there" / "penstock.db"


def test_values_arrive(write: Write) -> None:
    config = load(
        write(
            """
            listen: {address: 0.0.0.0, port: 80}
            picker: {ext_proc: {port: 9002, tls: off}}
            scheduling: {profiles: {fast: {scorers: [{name: queue}]}}}
            pools:
              - {name: a, type: static, endpoints: ["10.0.0.1:80", "[::1]:81", host:82]}
              - {name: b, type: simulated, replicas: 2, model: m, profile: fast}
              - {name: c, type: process, command: [x, "{port}"], cwd: sub}
            telemetry: {request_log: {file: log.jsonl}}
            """
        )
    )
    a, b, c = config.pools
    assert isinstance(a, StaticPool)
    assert a.endpoints == ("10.0.0.1:80", "[::1]:81", "host:82")
    assert isinstance(b, SimulatedPool)
    assert config.profile_of(b).scorers[0].name == "queue"
    assert config.profile_of(a) == config.scheduling.profiles["default"]
    assert isinstance(c, ProcessPool)
    assert c.cwd is not None
    assert c.cwd.is_absolute()  # relative to the file
    assert config.picker.ext_proc.tls == "off"


def test_a_simulated_engines_profile_is_a_name_or_a_file_beside_the_configuration(
    write: Write,
) -> None:
    file = write("pools: [{name: a, type: simulated, engine_profile: own.yaml}]\n")
    own = file.parent / "own.yaml"
    own.write_text("name: own\n")
    named = write("pools: [{name: a, type: simulated, engine_profile: qwen3-32b-tp2-h100}]\n")
    assert _engine_profile(named) == "qwen3-32b-tp2-h100"
    file = write("pools: [{name: a, type: simulated, engine_profile: own.yaml}]\n")
    assert _engine_profile(file) == str(own)


def _engine_profile(file: Path) -> str:
    (pool,) = load(file).pools
    assert isinstance(pool, SimulatedPool)
    return pool.engine_profile


@pytest.mark.parametrize(
    ("text", "place", "key", "got", "expected", "hint"),
    [
        pytest.param(
            "listen:\n  prot: 80\n",
            (2, 3),
            "listen.prot",
            "an unknown key",
            "one of address, port, tls",
            "did you mean port?",
            id="unknown key",
        ),
        pytest.param("a: 1\n", (1, 1), "a", "an unknown key", "one of listen", None, id="top key"),
        pytest.param(
            'listen:\n  port: "8080"\n',
            (2, 9),
            "listen.port",
            '"8080"',
            "a whole number",
            None,
            id="text for a number",
        ),
        pytest.param(
            "listen: {port: 70000}\n",
            (1, 16),
            "listen.port",
            "70000",
            "less than or equal to 65535",
            None,
            id="range",
        ),
        pytest.param(
            "picker: {lease_s: .inf}\n",
            (1, 19),
            "picker.lease_s",
            ".inf",
            "a finite number",
            None,
            id="infinity",
        ),
        pytest.param(
            "listen: {address: localhost}\n",
            (1, 19),
            "listen.address",
            '"localhost"',
            "an IP address",
            "use 127.0.0.1",
            id="address",
        ),
        pytest.param(
            "envoy: {enabled: yes}\n",
            (1, 18),
            "envoy.enabled",
            '"yes"',
            "true or false",
            None,
            id="yes is text",
        ),
        pytest.param(
            "picker: {ext_proc: {tls: of}}\n",
            (1, 26),
            "picker.ext_proc.tls",
            '"of"',
            "one of auto, off, or a mapping with the keys certificate, key",
            "did you mean off?",
            id="word or mapping",
        ),
        pytest.param(
            "pools:\n- name: x\n  type: statc\n",
            (3, 9),
            "pools[0].type",
            '"statc"',
            "one of static, simulated, process",
            "did you mean static?",
            id="type of pool",
        ),
        pytest.param(
            "pools:\n- name: x\n",
            (2, 3),
            "pools[0]",
            "a mapping with the keys name",
            "a mapping with the key type",
            None,
            id="no type",
        ),
        pytest.param(
            "pools:\n- {name: x, type: static}\n",
            (2, 3),
            "pools[0].endpoints",
            "nothing: the key is missing",
            "the key `endpoints`",
            None,
            id="missing key",
        ),
        pytest.param(
            "pools:\n- {name: x, type: static, endpoints: ['http://a:1']}\n",
            (2, 39),
            "pools[0].endpoints[0]",
            '"http://a:1"',
            "host:port",
            "give it without http://",
            id="url for an endpoint",
        ),
        pytest.param(
            "pools:\n- {name: x, type: static, endpoints: ['a:1', 'a:1']}\n",
            (2, 46),
            "pools[0].endpoints[1]",
            '"a:1"',
            "each one once",
            "a:1 is already there",
            id="endpoint twice",
        ),
        pytest.param(
            "pools:\n- {name: x, type: process, command: [vllm]}\n",
            (2, 37),
            "pools[0].command",
            "a list of 1",
            "{port} in an argument",
            "add --port {port}",
            id="no port",
        ),
        pytest.param(
            "pools:\n- {name: x, type: process, command: ['{port}'], env: {A: 1}}\n",
            (2, 58),
            "pools[0].env.A",
            "1",
            "text",
            'put it between quotation marks: "1"',
            id="number in env",
        ),
        pytest.param(
            "pools:\n- {name: x, type: simulated, engine_profile: mine.yaml}\n",
            (2, 46),
            "pools[0].engine_profile",
            '"mine.yaml"',
            "a readable file",
            "looked at ",
            id="no profile",
        ),
        pytest.param(
            "pools:\n- {name: x, type: simulated, engine_profile: H 100}\n",
            (2, 46),
            "pools[0].engine_profile",
            '"H 100"',
            "the name of a built-in profile",
            None,
            id="profile name",
        ),
        pytest.param(
            "pools:\n- {name: x, type: simulated, adapters: [a], max_loras: 0}\n",
            (2, 56),
            "pools[0].max_loras",
            "0",
            "1 or more, or null, with adapters",
            None,
            id="no slot for adapters",
        ),
        pytest.param(
            "pools:\n- {name: x, type: simulated, num_blocks: 10, max_model_len: 161}\n",
            (2, 61),
            "pools[0].max_model_len",
            "161",
            "at most 160",
            None,
            id="longer than the KV space",
        ),
        pytest.param(
            "scheduling: {profiles: {p: {scorers: [{name: queu}]}}}\n",
            (1, 46),
            "scheduling.profiles.p.scorers[0].name",
            '"queu"',
            "a scorer: one of",
            "did you mean queue?",
            id="unknown scorer",
        ),
        pytest.param(
            "scheduling:\n  profiles:\n    p: {filters: [{name: max-waiting, params: {x: 1}}],\n"
            "        scorers: [{name: kv}]}\n",
            (3, 47),
            "scheduling.profiles.p.filters[0].params",
            "a mapping with the keys x",
            "unknown parameter 'x'",
            None,
            id="unknown parameter",
        ),
        pytest.param(
            "listen: {port: 80}\nadmin: {port: 1}\nlisten: {port: 81}\n",
            (3, 1),
            "listen",
            "the key a second time (first in line 1)",
            "it once",
            None,
            id="duplicate key",
        ),
        pytest.param(
            "listen:\n\tport: 80\n",
            (2, 1),
            "",
            "cannot start any token",
            "valid YAML",
            "indent with spaces",
            id="tab",
        ),
        pytest.param(
            "listen: {port: 80\n", (2, 1), "", "expected ','", "valid YAML", None, id="syntax"
        ),
        pytest.param(
            "a: 1\n---\nb: 2\n",
            (2, 1),
            "",
            "another document",
            "valid YAML",
            "one document",
            id="two documents",
        ),
        pytest.param(
            "listen: &x\n  tls: *x\n",
            (1, 9),
            "listen.tls",
            "an alias inside",
            "no circle",
            None,
            id="circle",
        ),
        pytest.param(
            "run_dir: !!python/name:os.system\n",
            (1, 10),
            "run_dir",
            "the tag",
            "without a tag",
            None,
            id="tag",
        ),
        pytest.param("[1, 2]\n", (1, 1), "", "a list of 2", "a mapping", None, id="not a mapping"),
    ],
)
def test_a_problem_has_its_place_and_says_what_is_right(
    write: Write,
    text: str,
    place: tuple[int, int],
    key: str,
    got: str,
    expected: str,
    hint: str | None,
) -> None:
    problem = only(write(text))
    assert (problem.line, problem.column) == place
    assert problem.key == key
    assert got in problem.got
    assert expected in problem.expected
    assert (hint is None) == (problem.hint is None)
    assert hint is None or hint in str(problem.hint)


def test_every_problem_is_told_at_once_in_the_files_order(write: Write) -> None:
    path = write("admin: {port: no}\nlisten: {prot: 1}\nmodels: 3\n")
    last = "drain_timeout_s"
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == textwrap.dedent(
        f"""\
        {path}:1:15: admin.port
          got       "no"
          expected  a whole number

        {path}:2:10: listen.prot
          got       an unknown key
          expected  one of address, port, tls, max_body_bytes, stream_idle_timeout_s, {last}
          hint      did you mean port?

        {path}:3:9: models
          got       3
          expected  a list

        3 problems"""
    )


def test_a_missing_file_is_a_problem_too(tmp_path: Path) -> None:
    problem = only(tmp_path / "none.yaml")
    assert problem.got == "No such file or directory"
    assert problem.place == str(tmp_path / "none.yaml")


def test_bytes_that_are_not_text_are_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "penstock.yaml"
    path.write_bytes(b"listen: \xff")
    assert only(path).got == "bytes that are not UTF-8, at offset 8"


def test_the_schema_is_json_schema() -> None:
    assert '"$schema": "https://json-schema.org/draft/2020-12/schema"' in schema_json()
