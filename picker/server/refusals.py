"""What Envoy refuses by itself: its response code details, and our code for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "upgrade_failed": "upgrade_not_supported",
        "low_version": "http_version_not_supported",
        "missing_host_header": "host_required",
        "absolute_path_rejected": "invalid_path",
        "missing_path_rejected": "invalid_path",
        "http1.invalid_url": "invalid_path",
        "path_normalization_failed": "invalid_path",
        "http1.headers_too_large": "request_headers_too_large",
        "http1.too_many_headers": "request_headers_too_large",
        "http2.too_many_headers": "request_headers_too_large",
        "http1.invalid_transfer_encoding": "invalid_transfer_encoding",
        "http1.transfer_encoding_not_allowed": "invalid_transfer_encoding",
        "http1.content_length_and_chunked_not_allowed": "invalid_transfer_encoding",
        "http1.content_length_not_allowed": "invalid_transfer_encoding",
        "request_payload_too_large": "request_too_large",
        "request_overall_timeout": "request_timeout",
        "request_header_timeout": "request_timeout",
        "stream_idle_timeout": "request_timeout",
        "lua_response": "method_not_allowed",
        "cluster_not_found": "picker_unavailable",
    }
)
"""By the details, which are Envoy's words (``StreamInfo::ResponseCodeDetails`` and its codecs)."""
_BY_STATUS: Final = MappingProxyType({408: "request_timeout", 413: "request_too_large"})
_CODECS: Final = ("http1.", "http2.", "http3.")
_EXT_PROC: Final = "ext_proc"


def code_of(details: str) -> str:
    """Of a request that Envoy refused before it was decided."""
    if details.startswith(_EXT_PROC):
        return "picker_unavailable"
    if details.startswith(_CODECS) and details not in CODES:
        return "invalid_http"
    return CODES.get(details, "refused_by_proxy")


def code_of_status(status: int) -> str:
    """Of a request that somebody else's gateway refused: nothing else is known."""
    return _BY_STATUS.get(status, "refused_by_proxy")
