"""What ext_proc messages say of a request."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpHeaders,
    ProcessingRequest,
    ProcessingResponse,
)
from google.protobuf.json_format import MessageToDict, ParseDict

from picker import names
from picker.request.head import RequestHead
from picker.server.wire import continue_to_body, request_head, status_of
from tests.picker.server.edge import header_map


def head(metadata: Mapping[str, object]) -> RequestHead:
    context = ParseDict({"filterMetadata": metadata}, Metadata())
    headers = HttpHeaders(headers=header_map({":path": "/v1/models", ":method": "GET"}))
    message = ProcessingRequest(request_headers=headers, metadata_context=context)
    return request_head(message, 0.0)


def test_claims_as_plain_values() -> None:
    claims = {
        "tenant": "acme",
        "exp": 1767225600,
        "ratio": 0.25,
        "admin": True,
        "org": {"id": 7, "teams": ["a", 2, None]},
        "nothing": None,
        "huge": 1e300,
    }
    told = head({names.JWT_NAMESPACE: {names.CLAIMS: claims}})
    assert told.claims == claims
    assert type(told.claims["exp"]) is int
    assert told.claims_error == ""


@pytest.mark.parametrize(
    ("failed", "error"),
    [
        ({"code": "2", "message": "Jwt is expired"}, "Jwt is expired"),
        ({"code": "1", "message": "Jwt is missing"}, ""),
        ({}, "the token was refused"),
        ("odd", "the token was refused"),
    ],
)
def test_why_a_token_was_refused(failed: object, error: str) -> None:
    told = head({names.JWT_NAMESPACE: {names.CLAIMS_FAILED: failed}})
    assert (told.claims, told.claims_error) == ({}, error)


def test_a_good_token_beside_a_bad_one() -> None:
    both = {names.CLAIMS: {"tenant": "acme"}, names.CLAIMS_FAILED: {"message": "Jwt is expired"}}
    told = head({names.JWT_NAMESPACE: both})
    assert (told.claims, told.claims_error) == ({"tenant": "acme"}, "")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {names.JWT_NAMESPACE: {}},
        {names.JWT_NAMESPACE: {"tenant": "root"}},
        {names.LB_NAMESPACE: {names.CLAIMS: {"tenant": "root"}}},
        {names.JWT_NAMESPACE: {names.CLAIMS: "root"}},
    ],
)
def test_no_token(metadata: Mapping[str, object]) -> None:
    told = head(metadata)
    assert (told.claims, told.claims_error) == ({}, "")


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("/v1/chat/completions?api-version=1", "/v1/chat/completions"),
        ("/v1/chat%2fcompletions", "/v1/chat/completions"),
        ("/v1%2Fchat/%63ompletions?a=%2f", "/v1/chat/completions"),
        ("//v1//chat%2F/completions", "/v1/chat/completions"),
        ("/v1/chat/completions#x", "/v1/chat/completions"),
        ("/v1/chat%252fcompletions", "/v1/chat%2fcompletions"),
        ("/v1/models/a%23b%3Fc", "/v1/models/a#b?c"),
    ],
)
def test_a_path_is_read_as_the_engines_server_does(sent: str, read: str) -> None:
    headers = HttpHeaders(headers=header_map({":path": sent, ":method": "POST"}))
    assert request_head(ProcessingRequest(request_headers=headers), 0.0).path == read


@pytest.mark.parametrize(
    ("status", "read"),
    [("200", 200), ("599", 599), ("", 500), ("²00", 500), ("9" * 5000, 500), ("-1", 500)],
)
def test_a_status_that_is_none_is_a_failure(status: str, read: int) -> None:
    assert status_of({":status": status} if status else {}) == read


@pytest.mark.parametrize("request_id", ["p-1", "p0-12345", "picker-" + "9" * 130, "é-1"])
def test_the_body_is_asked_for_with_the_requests_id(request_id: str) -> None:
    for _ in range(2):
        message = ProcessingResponse.FromString(continue_to_body(request_id, "p0"))
        assert message.HasField("request_headers")
        assert MessageToDict(message.dynamic_metadata) == {
            names.PENSTOCK_NAMESPACE: {names.ASKED: request_id, "picker": "p0"}
        }
