"""Label values stay bounded."""

from __future__ import annotations

from gateway.telemetry.labels import LabelLimiter


def test_known_names_over_the_cap_become_other() -> None:
    limit = LabelLimiter(2, lambda name: name != "stranger")
    assert [limit(n) for n in ("a", "b", "c", "a", "stranger", "")] == [
        "a", "b", "other", "a", "unknown", "unknown",
    ]  # fmt: skip
