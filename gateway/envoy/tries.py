"""What happens to each try of a request at a replica: filters between the router and the replica.

They note how the tries before the last one ended, for the picker, and end a request that breaks
every replica that it is sent to. A first try that is answered with 200 passes them unseen.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from gateway.envoy.matching import SKIP, header_input, skipping
from gateway.envoy.message import Json, http_filter
from picker import names

_SENT_HEADER: Final = "x-penstock-sent"
"""Between two of the filters: bytes sent to replicas and received from them so far."""


_ATTEMPT: Final = header_input("HttpRequestHeaderMatchInput", names.ATTEMPT)


def upstream_filters() -> list[Json]:
    """In order, for the cluster of a pool."""
    source = files("gateway.envoy")
    return [
        _unless(
            "tries.status",
            "lua.v3.Lua",
            header_input("HttpResponseHeaderMatchInput", ":status"),
            "200",
            default_source_code={"inline_string": source.joinpath("status.lua").read_text("utf-8")},
        ),
        _unless(
            "tries.bytes",
            "header_mutation.v3.HeaderMutation",
            _ATTEMPT,
            "1",
            mutations={
                "request_mutations": [
                    {
                        "append": {
                            "header": {
                                "key": _SENT_HEADER,
                                "value": "%UPSTREAM_WIRE_BYTES_SENT%"
                                " %UPSTREAM_WIRE_BYTES_RECEIVED%",
                            },
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    }
                ]
            },
        ),
        _unless(
            "tries.guard",
            "lua.v3.Lua",
            _ATTEMPT,
            "1",
            default_source_code={"inline_string": source.joinpath("tries.lua").read_text("utf-8")},
        ),
        http_filter(
            "tries.clean",
            "header_mutation.v3.HeaderMutation",
            mutations={"request_mutations": [{"remove": names.ATTEMPT}]},
        ),
        http_filter("upstream_codec", "upstream_codec.v3.UpstreamCodec"),
    ]


def _unless(name: str, kind: str, input_: Json, value: str, **config: object) -> Json:
    """A filter that is skipped when the input has that value."""
    tree = {"input": input_, "exact_match_map": {"map": {value: {"action": SKIP}}}}
    return skipping(http_filter(name, kind, **config), {"matcher_tree": tree})
