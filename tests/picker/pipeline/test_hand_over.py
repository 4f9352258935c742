"""What another process of the gateway answers."""

from __future__ import annotations

import pytest

from picker import names
from picker.request.answer import Answer
from picker.request.caller import Caller
from picker.request.head import RequestHead
from picker.request.target import read_target
from picker.settings import PickerSettings, PoolSettings
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import POOL, Fleet, fleet, head, policy

LANE = ("/v1/files", "/v1/batches")


class Users:
    """A gate that knows everybody."""

    def identify(self, head: RequestHead) -> Caller:
        """See `Gate`."""
        return Caller(TenantPolicy("acme"), "k;1", user="Zoë", credentials=("authorization",))


def lane(*passthrough: str, handed_over: tuple[str, ...] = LANE) -> Fleet:
    made = fleet(gate=Users())
    made.picker.configure(
        PickerSettings(
            pools=(PoolSettings(POOL, policy()),), passthrough=passthrough, handed_over=handed_over
        )
    )
    return made


async def outcome(made: Fleet, path: str, method: str = "GET") -> Answer:
    target = read_target(path)
    request = head(target.path, method, authorization="Bearer x")
    begun = await made.picker.begin(
        RequestHead(method, target.path, request.headers, None, 0.0, respelled=target.respelled)
    )
    assert isinstance(begun, Answer), begun
    return begun


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/files"),
        ("GET", "/v1/files?limit=3"),
        ("GET", "/v1/files/file-1"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/files/file-1/content"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches"),
        ("GET", "/v1/batches/batch_1"),
        ("POST", "/v1/batches/batch_1/cancel"),
    ],
)
async def test_files_and_batches_go_to_the_lane_with_who_they_are_from(
    method: str, path: str
) -> None:
    made = lane()
    answer = await outcome(made, path, method)
    assert answer.handover is not None
    assert answer.handover.cluster == names.BATCHES_CLUSTER
    assert answer.handover.set_headers == ((names.CALLER, "acme;k%3B1;Zo%C3%AB"),)
    assert answer.handover.remove_headers == ("authorization",)
    assert made.seen.answers == []  # the access log says how it ended
    assert answer.status == 404  # what a gateway is told that cannot reach the lane


async def test_what_is_spelled_otherwise_reaches_the_lane_as_it_was_read() -> None:
    answer = await outcome(lane(), "//v1/fil%65s/x%20y/?limit=3")
    assert answer.handover is not None
    assert (":path", "/v1/files/x%20y?limit=3") in answer.handover.set_headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/files", 405),
        ("POST", "/v1/files/file-1/content", 405),
        ("GET", "/v1/files/file-1/more", 404),
        ("GET", "/v1/filesystem", 404),
        ("DELETE", "/v1/batches/b", 405),
    ],
)
async def test_other_paths_and_methods_are_refused(method: str, path: str, status: int) -> None:
    answer = await outcome(lane(), path, method)
    assert (answer.status, answer.handover) == (status, None)


async def test_without_a_lane_they_are_closed() -> None:
    answer = await outcome(lane(handed_over=()), "/v1/files")
    assert (answer.status, answer.handover) == (404, None)
