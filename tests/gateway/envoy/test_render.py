"""Envoy itself judges what is rendered."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.schema.envoy import EnvoyProxy
from gateway.envoy.proxy import binary
from gateway.run.certificates import write_self_signed
from tests.gateway.envoy.command import penstock

pytestmark = pytest.mark.envoy

EXAMPLES = sorted((Path(__file__).parents[3] / "deploy" / "examples").glob("*.yaml"))

Rendered = Callable[[str], Path]


def validate(file: Path) -> str:
    """What ``envoy --mode validate`` says; AssertionError when it refuses."""
    command = [str(binary(EnvoyProxy())), "--mode", "validate", "-c", str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.fixture
def rendered(tmp_path: Path) -> Rendered:
    """Write a configuration and return the file of the Envoy configuration it leads to."""

    def render(text: str) -> Path:
        source, target = tmp_path / "penstock.yaml", tmp_path / "envoy.json"
        source.write_text(textwrap.dedent(text))
        told = penstock("envoy", "config", "--with-secrets", "-c", str(source))
        assert told.returncode == 0, told.stderr
        target.write_text(told.stdout)
        return target

    return render


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A certificate and its key."""
    path = tmp_path / "both.pem"
    write_self_signed(path)
    return path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example(example: Path, rendered: Rendered) -> None:
    assert "OK" in validate(rendered(example.read_text()))


def test_tls_on_both_sides(rendered: Rendered, pem: Path) -> None:
    file = rendered(
        f"""
        listen: {{tls: {{certificate: {{file: {pem}}}, key: {{file: {pem}}}}}}}
        pools:
          - name: system
            type: static
            endpoints: ["10.0.0.1:443"]
            tls: {{server_name: llm.example.com}}
          - name: own
            type: static
            endpoints: ["10.0.0.2:443"]
            tls: {{ca: {{file: {pem}}}, server_name: vllm.internal}}
          - {{name: any, type: static, endpoints: ["10.0.0.3:443"], tls: {{verify: false}}}}
        """
    )
    validate(file)
    assert "vllm.internal" in file.read_text()


def test_a_private_key_is_not_printed_unasked(pem: Path, tmp_path: Path) -> None:
    source = tmp_path / "penstock.yaml"
    source.write_text(
        f"listen: {{tls: {{certificate: {{file: {pem}}}, key: {{file: {pem}}}}}}}\n"
        "pools: [{name: a, type: static, endpoints: ['10.0.0.1:443'],"
        f" tls: {{ca: {{file: {pem}}}, server_name: a.internal}}}}]\n"
    )
    shown = penstock("envoy", "config", "-c", str(source)).stdout
    assert "PRIVATE KEY" not in shown
    assert "BEGIN CERTIFICATE" not in shown
    assert f"<from file:{pem}>" in shown
    real = penstock("envoy", "config", "--with-secrets", "-c", str(source)).stdout
    assert "PRIVATE KEY" in real


def test_a_name_is_what_the_certificate_must_say(rendered: Rendered, pem: Path) -> None:
    """A certificate of the same authority for another host is not enough."""
    file = rendered(
        f"""
        pools:
          - name: own
            type: static
            endpoints: ["10.0.0.2:443"]
            tls: {{ca: {{file: {pem}}}, server_name: vllm.internal}}
        """
    )
    pool = json.loads(file.read_text())["static_resources"]["clusters"][1]
    context = pool["transport_socket"]["typed_config"]["common_tls_context"]
    (name,) = context["validation_context"]["match_typed_subject_alt_names"]
    assert name["matcher"]["exact"] == "vllm.internal"


JWKS = '{"keys":[{"kty":"oct","alg":"HS256","kid":"1","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]}'


def chain(file: Path) -> dict[str, dict[str, object]]:
    """The HTTP filters by name, in their order."""
    (listener,) = json.loads(file.read_text())["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return {one["name"].rpartition(".")[2]: one["typed_config"] for one in manager["http_filters"]}


def clusters(file: Path) -> dict[str, dict[str, object]]:
    """The clusters by name."""
    return {
        one["name"]: one for one in json.loads(file.read_text())["static_resources"]["clusters"]
    }


def test_tokens_with_keys_of_a_file(rendered: Rendered, tmp_path: Path) -> None:
    """Keys that verify are public: they are shown."""
    (tmp_path / "keys.json").write_text(JWKS)
    source = tmp_path / "penstock.yaml"
    source.write_text(
        "identity: {jwt: {issuer: https://id.test/, audiences: [a, b],"
        f" jwks: {{file: {tmp_path / 'keys.json'}}}}}}}\n"
    )
    shown = penstock("envoy", "config", "-c", str(source))
    assert shown.returncode == 0, shown.stderr
    file = tmp_path / "shown.json"
    file.write_text(shown.stdout)
    validate(file)
    filters = chain(file)
    assert list(filters)[:3] == ["lua", "jwt_authn", "ext_proc"]
    (provider,) = filters["jwt_authn"]["providers"].values()  # type: ignore[attr-defined]
    assert provider["local_jwks"] == {"inline_string": JWKS}
    assert (provider["issuer"], provider["audiences"]) == ("https://id.test/", ["a", "b"])
    assert "penstock_jwks" not in clusters(file)


@pytest.mark.parametrize(
    ("uri", "address", "sni", "name"),
    [
        ("https://id.test/keys?x=1", ("id.test", 443), "id.test", "DNS"),
        ("https://id.test:8443/keys", ("id.test", 8443), "id.test", "DNS"),
        ("https://10.0.0.7/keys", ("10.0.0.7", 443), None, "IP_ADDRESS"),
        ("https://[2001:db8::7]:444/keys", ("2001:db8::7", 444), None, "IP_ADDRESS"),
        ("http://id.test/keys", ("id.test", 80), None, None),
    ],
)
def test_tokens_with_published_keys(
    rendered: Rendered, uri: str, address: tuple[str, int], sni: str | None, name: str | None
) -> None:
    file = rendered(f"identity: {{jwt: {{issuer: https://id.test/, jwks_uri: '{uri}'}}}}")
    validate(file)
    text = json.dumps(chain(file)["jwt_authn"])
    assert f'"uri": "{uri}", "cluster": "penstock_jwks"' in text
    assert '"audiences"' not in text
    cluster = json.dumps(clusters(file)["penstock_jwks"])
    assert f'"address": "{address[0]}", "port_value": {address[1]}' in cluster
    assert ("transport_socket" in cluster) == (name is not None)
    assert (f'"sni": "{sni}"' in cluster) == (sni is not None)
    if name is not None:
        assert f'"san_type": "{name}"' in cluster
        assert "ca-certificates.crt" in cluster


def test_without_tokens_nothing_of_them_is_there(rendered: Rendered) -> None:
    text = rendered("").read_text()
    assert "jwt" not in text
    assert "jwks" not in text


def test_ipv6(rendered: Rendered) -> None:
    file = rendered(
        """
        listen: {address: "::1"}
        pools:
          - {name: chat, type: static, endpoints: ["[::1]:8000", "[2001:db8::2]:8000"]}
        """
    )
    validate(file)
    assert '"2001:db8::2"' in file.read_text()


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_limits_at_their_ends(rendered: Rendered, mode: str) -> None:
    validate(
        rendered(
            f"""
            listen: {{max_body_bytes: 1073741824, stream_idle_timeout_s: 0.5}}
            picker: {{workers: 64, failure_mode: {mode}, decision_timeout_s: 0.001}}
            scheduling: {{fallbacks: 0}}
            """
        )
    )


def test_no_pool_at_all(rendered: Rendered) -> None:
    validate(rendered(""))
