"""Which pages are let in, as Envoy gets it."""

from __future__ import annotations

import re

import pytest

from gateway.config.schema.cors import Cors
from gateway.envoy.cors import FILTER, policy


def rendered(**fields: object) -> dict[str, object]:
    made = policy(Cors.model_validate(fields, strict=False))[FILTER]
    assert isinstance(made, dict)
    return made


def test_by_default_every_page_may_call_with_a_key() -> None:
    made = rendered()
    assert made["allow_origin_string_match"] == [{"exact": "*"}]
    headers = str(made["allow_headers"]).split(", ")
    assert {"authorization", "content-type", "x-api-key", "*"} <= set(headers)
    shown = str(made["expose_headers"]).split(", ")
    assert {"x-request-id", "retry-after", "x-ratelimit-remaining-tokens"} <= set(shown)
    assert made["allow_credentials"] is False


@pytest.mark.parametrize(
    ("origin", "let_in"),
    [
        ("https://a.app.example", True),
        ("https://a.b.app.example", True),
        ("https://app.example", False),
        ("https://evilapp.example", False),
        ("http://a.app.example", False),
        ("https://a.app.example.evil.test", False),
        ("https://a.appXexample", False),
        ("https://evil.test/.app.example", False),
    ],
)
def test_names_below_a_domain(origin: str, let_in: bool) -> None:
    made = rendered(origins=["https://*.app.example", "https://other.test"])
    matchers = made["allow_origin_string_match"]
    assert isinstance(matchers, list)
    below, exact = matchers
    assert exact == {"exact": "https://other.test"}
    assert bool(re.fullmatch(below["safe_regex"]["regex"], origin)) is let_in


def test_named_headers_are_all_there_is() -> None:
    made = rendered(headers=["X-One", "x-two"], expose_headers=["x-three"], max_age_s=5)
    assert made["allow_headers"] == "x-one, x-two"
    assert str(made["expose_headers"]).endswith(", x-three")
    assert made["max_age"] == "5"
