"""Where limits are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import assert_refused


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("limits: {store: memroy}", "limits.store", "did you mean memory?"),
        ("limits: {store: {}}", "limits.store.redis", "the key `redis`"),
        ("limits: {lease_s: 0.5}", "limits.lease_s", "greater than or equal to 1"),
        ("limits: {tokenizers: [{model: m}]}", "limits.tokenizers[0].file", "or `encoding`"),
        (
            "limits: {output_quantile: {min: 50, prior: 20}}",
            "limits.output_quantile.prior",
            "50 to 16384",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, key: str, says: str) -> None:
    assert_refused(tmp_path, text, key, says)
