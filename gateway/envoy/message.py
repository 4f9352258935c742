"""Envoy's messages as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

Json: TypeAlias = dict[str, object]

TYPE: Final = "type.googleapis.com/"
MANY: Final = 1_000_000
"""Where Envoy asks for a limit and none is wanted."""


def typed(name: str, message: str, **fields: object) -> Json:
    """An extension by name, with its configuration: a message by its full name."""
    return {"name": name, "typed_config": {"@type": TYPE + message, **fields}}


def http_filter(name: str, message: str, **fields: object) -> Json:
    """An HTTP filter: short name, and its message below ``envoy.extensions.filters.http``."""
    return typed(f"envoy.filters.http.{name}", f"envoy.extensions.filters.http.{message}", **fields)


def socket_address(address: str) -> Json:
    """Of ``host:port``."""
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def watched(path: Path) -> Json:
    """A discovery file that Envoy follows."""
    return {
        "path_config_source": {
            "path": str(path),
            "watched_directory": {"path": str(path.parent)},
        },
        "resource_api_version": "V3",
    }
