"""Ids of stored responses: they lead to a replica, for one tenant, with one key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from picker.request.response_ids import ALPHABET, PREFIX, ResponseIds, given_id

IDS = st.text(ALPHABET, min_size=1, max_size=200).map(lambda text: PREFIX + text)
TENANTS = st.text(max_size=20)
A, B = "10.0.0.1:8000", "[2001:db8::2]:8000"


@given(IDS, TENANTS, TENANTS)
def test_an_id_is_read_by_its_tenant_alone(own: str, tenant: str, other: str) -> None:
    ids, again = ResponseIds(b"key"), ResponseIds(b"key")
    issue = ids.issue(tenant, (A, B))
    shown = given_id(issue, B, own)
    held = again.read(shown, tenant)
    assert held is not None
    assert (held.id, held.tag) == (own, again.tag(B))
    assert set(shown) <= set(ALPHABET)
    assert ResponseIds(b"other").read(shown, tenant) is None
    if other != tenant:
        assert again.read(shown, other) is None


@given(IDS, st.data())
def test_a_changed_seal_is_no_seal(own: str, data: st.DataObject) -> None:
    ids = ResponseIds(b"key")
    shown = given_id(ids.issue("t", (A,)), A, own)
    at = data.draw(st.integers(len(shown) - 24, len(shown) - 1))
    changed = data.draw(st.sampled_from([one for one in ALPHABET if one != shown[at]]))
    assert ids.read(shown[:at] + changed + shown[at + 1 :], "t") is None


@given(st.text(max_size=80))
def test_anything_can_be_asked_for(text: str) -> None:
    assert ResponseIds(b"key").read(text, "t") is None


def test_a_seal_put_behind_another_id_leads_to_none_that_exists() -> None:
    ids = ResponseIds(b"key")
    own = PREFIX + "0123456789abcdef" * 2
    theirs = given_id(ids.issue("them", (A,)), A, own)
    mine = given_id(ids.issue("me", (A,)), A, PREFIX + "f" * 32)
    held = ids.read(theirs[:-24] + mine[-24:], "me")
    assert held is not None
    assert held.id != own


def test_an_unknown_replica_or_kind_of_id_stays_as_it_is() -> None:
    issue = ResponseIds(b"key").issue("t", (A,))
    assert given_id(issue, B, "resp_1") == "resp_1"
    assert given_id(issue, A, "chatcmpl-1") == "chatcmpl-1"
