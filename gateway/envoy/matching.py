"""Filters that most requests pass unseen."""

from __future__ import annotations

from typing import Final

from gateway.envoy.message import TYPE, Json, typed

SKIP: Final = typed("skip", "envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
"""What a matcher decides for a request that is none of the filter's."""


def header_input(kind: str, header: str) -> Json:
    """A header as the input of a matcher. ``kind``: its message below ``envoy.type.matcher``."""
    return {
        "name": header,
        "typed_config": {"@type": f"{TYPE}envoy.type.matcher.v3.{kind}", "header_name": header},
    }


def skipping(http_filter: Json, matcher: Json) -> Json:
    """The filter, but not where the matcher says `SKIP`."""
    return typed(
        str(http_filter["name"]),
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        extension_config=http_filter,
        xds_matcher=matcher,
    )
