"""Who a request is from: by token, key, trusted header, or nobody in particular."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.config import Config
from gateway.tenancy.directory import Directory
from gateway.tenancy.gate import TenantGate
from gateway.tenancy.keys import digest_of, make_key
from gateway.tenancy.records import KeyRecord, key_entry
from gateway.tenancy.registry import Entry, EntryKind
from picker.request.caller import Caller
from picker.request.rejection import Reason, Rejection
from tests.gateway.tenancy.parts import NOW_S, WallClock, config_of, head_of

KEY = "sk-of-another-gateway"
JWT = {"issuer": "https://login.example", "jwks_uri": "https://login.example/keys"}
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJ0ZW5hbnQiOiJhY21lIn0.c2ln"
TRUSTED = {"tenant": "x-tenant-id", "user": "x-user-id"}


def tenants(*more: object) -> list[object]:
    acme = {"name": "acme", "keys": [{"id": "ci", "sha256": digest_of(KEY).hex()}]}
    return [acme, {"name": "guest"}, {"name": "off", "disabled": True}, *more]


class Door:
    """A gate with its directory."""

    def __init__(self, config: Config) -> None:
        self.clock = WallClock()
        self.directory = Directory(config)
        self.gate = TenantGate(self.directory, now_s=self.clock)

    def __call__(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        claims: Mapping[str, object] | None = None,
        claims_error: str = "",
    ) -> Caller:
        return self.gate.identify(head_of(headers, claims=claims, claims_error=claims_error))

    def refused(
        self,
        headers: Mapping[str, str] | None = None,
        reason: Reason = Reason.INVALID_API_KEY,
        *,
        claims: Mapping[str, object] | None = None,
        claims_error: str = "",
    ) -> str:
        """The message of the refusal."""
        with pytest.raises(Rejection) as caught:
            self(headers, claims=claims, claims_error=claims_error)
        rejection = caught.value
        assert rejection.reason is reason
        challenges = [value for name, value in rejection.headers() if name == "www-authenticate"]
        assert challenges == (["Bearer"] if reason is Reason.INVALID_API_KEY else [])
        shown = [value.removeprefix("Bearer ") for value in (headers or {}).values()]
        if reason is Reason.INVALID_API_KEY:
            assert not any(len(value) > 12 and value in rejection.message for value in shown)
        return rejection.message


def door(identity: Mapping[str, object] | None = None, **sections: object) -> Door:
    return Door(config_of(**{"identity": identity or {}, "tenants": tenants(), **sections}))


# -- API keys


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("authorization", f"Bearer {KEY}"),
        ("authorization", f"bearer   {KEY} "),
        ("x-api-key", KEY),
        ("api-key", KEY),
    ],
)
def test_a_key_tells_its_tenant(header: str, value: str) -> None:
    caller = door()({header: value})
    assert (caller.tenant, caller.key, caller.line, caller.user) == ("acme", "ci", "ci", "")
    assert set(caller.credentials) == {"authorization", "x-api-key", "api-key"}


def test_a_request_without_a_key_is_refused() -> None:
    assert "API key" in door().refused()
    assert "API key" in door().refused({"x-api-key": ""})


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sk-of-another-gatewaY"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {digest_of(KEY).hex()}"},
        {"x-api-key": "not\ufffdit"},
        {"api-key": f"{KEY},{KEY}"},
        {"authorization": "Bearer wrong", "x-api-key": KEY},
    ],
)
@pytest.mark.parametrize("anonymous", [None, "guest"])
def test_a_wrong_key_is_refused_even_where_none_is_needed(
    headers: Mapping[str, str], anonymous: str | None
) -> None:
    door({"anonymous": anonymous}).refused(headers)


@given(st.text(max_size=80))
def test_no_text_is_a_key_but_the_key(text: str) -> None:
    if text != KEY:
        door().refused({"x-api-key": text})


def registered(at: Door, **changes: object) -> str:
    """A key of the registry; its text."""
    made = make_key()
    facts: dict[str, object] = {
        "id": made.id,
        "line": "first",
        "tenant": "acme",
        "digest": digest_of(made.text),
        "created_s": NOW_S,
    }
    at.directory.apply([key_entry(KeyRecord(**(facts | changes)))])  # type: ignore[arg-type]
    return made.text


def test_a_made_key_carries_its_line_and_models() -> None:
    at = door()
    text = registered(at, models=("llama-*",))
    caller = at({"authorization": f"Bearer {text}"})
    assert (caller.key, caller.line) == (text.split("_")[1], "first")
    assert caller.may_use("llama-3")
    assert not caller.may_use("qwen")


def test_a_key_expires() -> None:
    at = door()
    text = registered(at, expires_s=NOW_S + 60)
    headers = {"x-api-key": text}
    at.clock.now_s = NOW_S + 59.9
    assert at(headers).tenant == "acme"
    at.clock.now_s = NOW_S + 60
    assert "expired on 2027-01-15T08:01:00Z" in at.refused(headers)


def test_a_key_of_the_configuration_expires() -> None:
    keys = [{"id": "old", "sha256": digest_of("old").hex(), "expires": "2027-01-15T09:00:00+01:00"}]
    at = door(tenants=[{"name": "acme", "keys": keys}])
    at.clock.now_s = NOW_S - 1
    assert at({"x-api-key": "old"}).key == "old"
    at.clock.now_s = NOW_S
    assert "expired" in at.refused({"x-api-key": "old"})


def test_a_revoked_key_is_refused() -> None:
    at = door({"anonymous": "guest"})
    text = registered(at, revoked_s=NOW_S - 1)
    assert "was revoked" in at.refused({"x-api-key": text})


def test_a_key_without_a_tenant_is_refused() -> None:
    at = door()
    assert "does not exist any more" in at.refused({"x-api-key": registered(at, tenant="gone")})


def test_a_disabled_tenant_is_forbidden() -> None:
    at = door({"trusted_headers": TRUSTED, "jwt": JWT})
    text = registered(at, tenant="off")
    assert "'off' is disabled" in at.refused({"x-api-key": text}, Reason.TENANT_DISABLED)
    at.refused({"x-tenant-id": "off"}, Reason.TENANT_DISABLED)
    at.refused({}, Reason.TENANT_DISABLED, claims={"tenant": "off"})
    anonymous = door({"anonymous": "off"})
    anonymous.refused({}, Reason.TENANT_DISABLED)


def test_limits_of_a_key_come_beside_its_tenants() -> None:
    limit = {"count": "requests", "limit": 5, "period": "minute"}
    keys = [
        {"id": "a", "sha256": digest_of("a").hex(), "limits": [limit | {"name": "mine"}]},
        {"id": "b", "sha256": digest_of("b").hex()},
    ]
    at = door(tenants=[{"name": "acme", "limits": [limit], "keys": keys}])
    own, other = at({"x-api-key": "a"}), at({"x-api-key": "b"})
    assert [rule.name for rule in own.policy.rules] == ["requests-per-minute", "mine"]
    assert [rule.name for rule in other.policy.rules] == ["requests-per-minute"]
    assert at({"x-api-key": "a"}).policy is own.policy, "compiled once"


# -- trusted headers


def test_a_trusted_header_names_the_tenant() -> None:
    caller = door({"trusted_headers": TRUSTED})({"x-tenant-id": "acme", "x-user-id": "ada"})
    assert (caller.tenant, caller.key, caller.user) == ("acme", "", "ada")
    assert set(caller.credentials) == {
        *("authorization", "x-api-key", "api-key", "x-tenant-id", "x-user-id")
    }


def test_only_configured_headers_are_trusted() -> None:
    door().refused({"x-tenant-id": "acme"})
    at = door({"anonymous": "guest", "trusted_headers": {"tenant": "x-team"}})
    caller = at({"x-tenant-id": "acme", "x-user-id": "ada"})
    assert (caller.tenant, caller.user) == ("guest", "")


def test_headers_that_prove_nothing_are_left_alone() -> None:
    at = door(
        {"api_keys": False, "trusted_headers": {"tenant": "x-team"}}, tenants=[{"name": "acme"}]
    )
    caller = at({"x-team": "acme", "authorization": "Bearer of-the-replica"})
    assert caller.credentials == ("x-team",)


def test_a_key_counts_before_a_trusted_header() -> None:
    at = door({"trusted_headers": TRUSTED})
    caller = at({"x-tenant-id": "guest", "x-user-id": "eve", "x-api-key": KEY})
    assert (caller.tenant, caller.user) == ("acme", "")
    at.refused({"x-tenant-id": "guest", "x-api-key": "wrong"})


@pytest.mark.parametrize("name", ["nobody", "acme,guest", "Acme", "a{b}", "x" * 64, "acme "])
def test_an_unknown_tenant_is_forbidden(name: str) -> None:
    at = door({"trusted_headers": TRUSTED})
    assert "There is no tenant" in at.refused({"x-tenant-id": name}, Reason.UNKNOWN_TENANT)


def test_unknown_tenants_may_have_a_plan() -> None:
    plans = [{"name": "free", "priority": -1}]
    at = door({"trusted_headers": TRUSTED, "unknown_tenants": "free"}, plans=plans)
    caller = at({"x-tenant-id": "nobody"})
    assert (caller.tenant, caller.policy.priority, caller.policy.plan) == ("nobody", -1, "free")
    assert at({"x-tenant-id": "acme"}).policy.plan == ""
    at.refused({"x-tenant-id": "a{b}"}, Reason.UNKNOWN_TENANT)
    at.directory.apply([Entry(EntryKind.TENANT, "nobody", 1, b'{"name":"nobody","priority":9}')])
    assert at({"x-tenant-id": "nobody"}).policy.priority == 9


# -- tokens


def test_claims_tell_the_tenant() -> None:
    at = door({"jwt": JWT, "trusted_headers": TRUSTED})
    caller = at(
        {"x-api-key": "wrong", "x-tenant-id": "guest"}, claims={"tenant": "acme", "sub": "ada"}
    )
    assert (caller.tenant, caller.key, caller.user) == ("acme", "", "ada")
    assert "authorization" in caller.credentials


def test_a_token_may_be_forwarded_but_not_a_key() -> None:
    at = door({"jwt": JWT | {"forward": True}})
    assert "authorization" not in at({}, claims={"tenant": "acme"}).credentials
    assert "x-api-key" in at({}, claims={"tenant": "acme"}).credentials
    assert "authorization" in at({"authorization": f"Bearer {KEY}"}).credentials


def test_claims_mean_nothing_where_tokens_are_not_taken() -> None:
    door().refused(claims={"tenant": "acme"})


@pytest.mark.parametrize(
    ("path", "claims", "tenant"),
    [
        ("tenant", {"tenant": "acme"}, "acme"),
        ("org.id", {"org": {"id": "acme"}}, "acme"),
        ("https://acme.example/tenant", {"https://acme.example/tenant": "acme"}, "acme"),
        ("org.id", {"org": "acme"}, None),
        ("tenant", {"sub": "ada"}, None),
        ("tenant", {"tenant": 7}, None),
        ("tenant", {"tenant": ["acme"]}, None),
        ("tenant", {"tenant": ""}, None),
    ],
)
def test_the_claim_can_be_chosen(path: str, claims: dict[str, object], tenant: str | None) -> None:
    at = door({"jwt": JWT | {"tenant_claim": path}, "anonymous": "guest"})
    if tenant is None:
        assert f"claim {path!r}" in at.refused(claims=claims)
    else:
        assert at(claims=claims).tenant == tenant


def test_the_user_of_a_token_is_a_claim() -> None:
    at = door({"jwt": JWT | {"user_claim": "user.id"}})
    assert at(claims={"tenant": "acme", "user": {"id": 42}}).user == "42"
    assert at(claims={"tenant": "acme"}).user == ""
    assert "'user.id'" in at.refused(claims={"tenant": "acme", "user": {"id": ["x"]}})
    assert (
        door({"jwt": JWT | {"user_claim": None}})(claims={"tenant": "acme", "sub": "a"}).user == ""
    )


def test_a_token_that_is_not_good_is_refused() -> None:
    at = door({"jwt": JWT, "anonymous": "guest"})
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert "Jwt is expired" in at.refused(headers, claims_error="Jwt is expired")
    assert "could not be verified" in at.refused(headers)


def test_a_key_is_not_taken_for_a_token() -> None:
    """Envoy finds fault with it, as with every bearer that is no token."""
    at = door({"jwt": JWT})
    caller = at({"authorization": f"Bearer {KEY}"}, claims_error="Jwt is not in the form of...")
    assert caller.tenant == "acme"


def test_where_only_tokens_are_taken_a_key_is_none() -> None:
    at = door({"jwt": JWT, "api_keys": False}, tenants=[{"name": "acme"}])
    assert "token" in at.refused({"authorization": f"Bearer {KEY}"}, claims_error="no token")
    assert "token" in at.refused()


# -- anonymous, users


def test_the_anonymous_tenant_is_the_last_resort() -> None:
    caller = door({"anonymous": "guest"})({})
    assert (caller.tenant, caller.key, caller.user) == ("guest", "", "")


def test_plans_or_tenants_alone_ask_for_keys() -> None:
    at = Door(config_of(tenants=tenants()))
    assert at({"x-api-key": KEY}).tenant == "acme"
    at.refused()


def test_a_client_may_name_its_user() -> None:
    at = door({"user_header": "x-user", "anonymous": "guest"})
    caller = at({"x-api-key": KEY, "x-user": "ada"})
    assert caller.user == "ada"
    assert "x-user" in caller.credentials
    assert at({"x-user": "ada"}).user == "", "of a request with a key"


@given(st.text(min_size=1, max_size=300))
def test_users_are_bounded(user: str) -> None:
    at = door({"user_header": "x-user", "jwt": JWT, "trusted_headers": TRUSTED})
    callers = [
        at({"x-api-key": KEY, "x-user": user}),
        at({"x-tenant-id": "acme", "x-user-id": user}),
        at({}, claims={"tenant": "acme", "sub": user}),
    ]
    assert len({caller.user for caller in callers}) == 1, "one user, however it is told"
    assert len(callers[0].user) <= 64
    assert len(user) > 64 or callers[0].user == user


# -- secrecy


def test_keys_are_told_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    at = door()
    made = make_key()
    record = KeyRecord(made.id, made.id, "acme", digest_of(made.text), created_s=NOW_S)
    entry = key_entry(record)
    at.directory.apply([entry])
    caller = at({"authorization": f"Bearer {made.text}"})
    at.refused({"authorization": f"Bearer {made.text}x"})
    told = "".join([repr(made), repr(record), repr(entry), repr(caller), caplog.text])
    assert made.text not in told
    assert made.text.split("_")[2] not in told
    assert digest_of(made.text).hex() not in told
    assert made.text not in entry.content.decode()
    assert json.loads(entry.content)["sha256"] == digest_of(made.text).hex()


def test_made_keys_are_long_and_different() -> None:
    keys = [make_key() for _ in range(200)]
    assert len({key.text for key in keys}) == len({key.id for key in keys}) == 200
    for key in keys:
        start, key_id, secret = key.text.split("_")
        assert (start, key_id, len(secret)) == ("psk", key.id, 43)
        assert secret.isalnum()


# -- on behalf of somebody who was identified before


def on_behalf(at: Door, *who: str) -> Caller:
    return at.gate.on_behalf(*who)


def refusal(at: Door, *who: str) -> Reason:
    with pytest.raises(Rejection) as caught:
        on_behalf(at, *who)
    return caught.value.reason


def test_a_key_and_a_name_are_accepted_again() -> None:
    at = door({"anonymous": "guest"})
    by_key = on_behalf(at, "acme", "ci", "ann")
    assert (by_key.tenant, by_key.key, by_key.line, by_key.user) == ("acme", "ci", "ci", "ann")
    by_name = on_behalf(at, "acme", "", "ann")
    assert (by_name.tenant, by_name.key, by_name.user) == ("acme", "", "ann")
    assert on_behalf(at, "guest", "", "").policy is at().policy


def test_what_is_no_longer_accepted_is_refused() -> None:
    at = door()
    registered(at, id="gone", revoked_s=NOW_S)
    registered(at, id="old", line="old", expires_s=NOW_S)
    assert refusal(at, "acme", "gone", "") is Reason.INVALID_API_KEY
    assert refusal(at, "acme", "old", "") is Reason.INVALID_API_KEY
    assert refusal(at, "acme", "never", "") is Reason.INVALID_API_KEY
    assert refusal(at, "guest", "ci", "") is Reason.INVALID_API_KEY
    assert refusal(at, "off", "", "") is Reason.TENANT_DISABLED
    assert refusal(at, "nobody", "", "") is Reason.UNKNOWN_TENANT


def test_a_key_that_was_rotated_stands_for_the_one_that_it_became() -> None:
    at = door()
    registered(at, id="old", line="old", expires_s=NOW_S)
    registered(at, id="new", line="old")
    found = on_behalf(at, "acme", "old", "")
    assert (found.key, found.line) == ("new", "old")
