"""The Envoy that Penstock runs."""

from __future__ import annotations

from typing import Literal

from gateway.config.schema.section import ConfigPath, Section
from gateway.config.schema.terms import Count


class EnvoyProxy(Section):
    """The Envoy that Penstock runs."""

    enabled: bool = True
    """Run Envoy. false: only the picker runs, for somebody else's gateway."""
    concurrency: Count | None = None
    """Worker threads. Null: one for each core."""
    binary: ConfigPath | None = None
    """Envoy program. Null: the one installed with Penstock."""
    log_level: Literal["trace", "debug", "info", "warning", "error", "critical", "off"] = "warning"
    """Least severe messages that Envoy logs."""
