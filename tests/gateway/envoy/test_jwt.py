"""Tokens that Envoy verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gateway.envoy.command import penstock
from tests.gateway.envoy.rendering import Rendered, validate

pytestmark = pytest.mark.envoy

JWKS = '{"keys":[{"kty":"oct","alg":"HS256","kid":"1","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}]}'


def chain(file: Path) -> dict[str, dict[str, object]]:
    """The HTTP filters by name, in their order."""
    listener, _ = json.loads(file.read_text())["static_resources"]["listeners"]
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
    assert shown.exit_code == 0, shown.stderr
    file = tmp_path / "shown.json"
    file.write_text(shown.stdout)
    validate(file)
    filters = chain(file)
    assert list(filters)[:6] == ["cors", "requests", "lua", "responses", "jwt_authn", "ext_proc"]
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
