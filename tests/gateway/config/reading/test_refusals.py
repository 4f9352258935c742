"""What pydantic refuses, as a person reads it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gateway.config.reading.load import load
from gateway.config.reading.problems import ConfigError
from tests.gateway.config.texts import Refusal, written


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(
            Refusal(
                "listen:\n  prot: 80\n",
                (2, 3),
                "listen.prot",
                "an unknown key",
                "one of address, port, tls",
                "did you mean port?",
            ),
            id="unknown key",
        ),
        pytest.param(
            Refusal("a: 1\n", (1, 1), "a", "an unknown key", "one of listen", None),
            id="top key",
        ),
        pytest.param(
            Refusal(
                'listen:\n  port: "8080"\n', (2, 9), "listen.port", '"8080"', "a whole number", None
            ),
            id="text for a number",
        ),
        pytest.param(
            Refusal(
                "listen: {port: 70000}\n",
                (1, 16),
                "listen.port",
                "70000",
                "less than or equal to 65535",
                None,
            ),
            id="range",
        ),
        pytest.param(
            Refusal(
                "picker: {lease_s: .inf}\n",
                (1, 19),
                "picker.lease_s",
                ".inf",
                "a finite number",
                None,
            ),
            id="infinity",
        ),
        pytest.param(
            Refusal(
                "envoy: {enabled: yes}\n", (1, 18), "envoy.enabled", '"yes"', "true or false", None
            ),
            id="yes is text",
        ),
        pytest.param(
            Refusal(
                "picker: {ext_proc: {tls: of}}\n",
                (1, 26),
                "picker.ext_proc.tls",
                '"of"',
                "one of auto, off, or a mapping with the keys certificate, key",
                "did you mean off?",
            ),
            id="word or mapping",
        ),
        pytest.param(
            Refusal(
                "pools:\n- name: x\n  type: statc\n",
                (3, 9),
                "pools[0].type",
                '"statc"',
                "one of static, simulated, process",
                "did you mean static?",
            ),
            id="type of pool",
        ),
        pytest.param(
            Refusal(
                "pools:\n- name: x\n",
                (2, 3),
                "pools[0]",
                "a mapping with the keys name",
                "a mapping with the key type",
                None,
            ),
            id="no type",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: static}\n",
                (2, 3),
                "pools[0].endpoints",
                "nothing: the key is missing",
                "the key `endpoints`",
                None,
            ),
            id="missing key",
        ),
        pytest.param(
            Refusal(
                "pools:\n- {name: x, type: process, command: ['{port}'], env: {A: 1}}\n",
                (2, 58),
                "pools[0].env.A",
                "1",
                "text",
                'put it between quotation marks: "1"',
            ),
            id="number in env",
        ),
        pytest.param(
            Refusal("[1, 2]\n", (1, 1), "", "a list of 2", "a mapping", None),
            id="not a mapping",
        ),
    ],
)
def test_a_problem_has_its_position_and_says_what_is_right(
    tmp_path: Path, refusal: Refusal
) -> None:
    refusal.check(tmp_path)


def test_every_problem_is_told_at_once_in_the_files_order(tmp_path: Path) -> None:
    path = written(tmp_path, "admin: {port: no}\nlisten: {prot: 1}\nmodels: 3\n")
    last = "upload_timeout_s, stream_idle_timeout_s, drain_timeout_s, shutdown_delay_s"
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == textwrap.dedent(
        f"""\
        {path}:1:15: admin.port
          got       "no"
          expected  a whole number

        {path}:2:10: listen.prot
          got       an unknown key
          expected  one of address, port, tls, max_body_bytes, caps, upload_idle_timeout_s, {last}
          hint      did you mean port?

        {path}:3:9: models
          got       3
          expected  a list

        3 problems"""
    )
