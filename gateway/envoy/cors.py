"""CORS: Envoy answers preflights itself, and adds the headers to every answer to a page, also to
those of the picker and to its own errors."""

from __future__ import annotations

import re
from typing import Final

from gateway.config.schema.cors import EVERY, Cors
from gateway.envoy.message import TYPE, Json, http_filter
from picker import names

FILTER: Final = "envoy.filters.http.cors"

ANSWER_HEADERS: Final = tuple(
    f"access-control-{what}"
    for what in (
        *("allow-origin", "allow-credentials", "expose-headers"),
        *("allow-methods", "allow-headers", "max-age"),
    )
)
"""What answers to pages may have."""
_METHODS: Final = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
_KNOWN_HEADERS: Final = (
    "authorization",  # the wildcard of the Fetch standard does not stand for it
    "content-type",
    "accept",
    "api-key",
    "x-api-key",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "anthropic-version",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "traceparent",
    names.REQUEST_ID,
    names.SESSION_ID,
    names.SESSION_TOKEN,
    *(
        f"x-stainless-{what}"
        for what in (
            *("arch", "async", "helper-method", "lang", "os", "package-version", "poll-helper"),
            *("custom-poll-interval", "retry-count", "runtime", "runtime-version", "timeout"),
        )
    ),
)
"""What the clients of OpenAI and Anthropic send, for browsers that do not know the wildcard."""
_SHOWN_HEADERS: Final = (
    "request-id",
    names.REQUEST_ID,
    "retry-after",
    "retry-after-ms",
    names.SHOULD_RETRY,
    names.DROPPED_REASON,
    names.SESSION_TOKEN,
    names.SERVED_BY,
    names.PREDICTED_TTFT_MS,
    "www-authenticate",
    "openai-processing-ms",
    *(
        f"x-ratelimit-{what}-{of}"
        for of in ("requests", "tokens")
        for what in ("limit", "remaining", "reset")
    ),
    *(
        f"anthropic-ratelimit-{of}-{what}"
        for of in ("requests", "tokens", "input-tokens", "output-tokens")
        for what in ("limit", "remaining", "reset")
    ),
)


def cors_filter() -> Json:
    """The first of the filters, so that no other answers before it."""
    return http_filter("cors", "cors.v3.Cors")


def policy(cors: Cors) -> Json:
    """Of a virtual host, by the filter's name."""
    headers = (*_KNOWN_HEADERS, EVERY) if EVERY in cors.headers else cors.headers
    return {
        FILTER: {
            "@type": TYPE + "envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [_match(origin) for origin in cors.origins],
            "allow_methods": _METHODS,
            "allow_headers": ", ".join(headers),
            "expose_headers": ", ".join((*_SHOWN_HEADERS, *cors.expose_headers)),
            "max_age": str(cors.max_age_s),
            "allow_credentials": cors.credentials,
            "forward_not_matching_preflights": False,
        }
    }


def _match(origin: str) -> Json:
    scheme, wildcard, rest = origin.partition("://*.")
    if not wildcard:
        return {"exact": origin}
    return {"safe_regex": {"regex": f"{re.escape(scheme)}://[a-z0-9_.-]+\\.{re.escape(rest)}"}}
