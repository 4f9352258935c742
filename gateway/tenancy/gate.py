"""The gate: finds the tenant of a request by the request's head.

In this order: by a token that Envoy has verified, by an API key, by a trusted header; otherwise it
is the anonymous tenant. A request with a key or token that is not accepted is refused (401),
whatever else it has. Messages name keys by id, and never repeat what a client sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NoReturn

from gateway.config.config import Config
from gateway.config.schema.identity import Jwt, TrustedHeaders
from gateway.tenancy.directory import Directory
from gateway.tenancy.keys import digest_of
from gateway.tenancy.records import KeyRecord, KeyState
from picker.request.caller import Caller
from picker.request.context import bounded
from picker.request.head import RequestHead
from picker.request.rejection import Reason, Rejection
from policies.limits.plan import TenantPolicy

_AUTHORIZATION: Final = "authorization"
_KEY_HEADERS: Final = ("x-api-key", "api-key")
_CHALLENGE: Final = (("www-authenticate", "Bearer"),)
_MAX_SHOWN: Final = 64


class TenantGate:
    """`picker.seams.gate.Gate` by a directory, and by the configuration of the directory."""

    def __init__(self, directory: Directory, *, now_s: Callable[[], float]) -> None:
        """``now_s``: the wall clock, seconds since the epoch, by which keys expire."""
        self._directory = directory
        self._now_s = now_s
        self._apply(directory.config)

    def configure(self, config: Config) -> None:
        """Put another configuration into force, in the directory too."""
        self._directory.configure(config)
        self._apply(config)

    def _apply(self, config: Config) -> None:
        identity = config.identity_in_force
        self._api_keys, self._jwt = identity.api_keys, identity.jwt
        self._trusted, self._user_header = identity.trusted_headers, identity.user_header
        named = [self._user_header]
        if self._trusted is not None:
            named += [self._trusted.tenant, self._trusted.user]
        if self._api_keys or self._jwt is not None:
            named += _KEY_HEADERS
        forwarded = tuple(name for name in named if name is not None)
        taken = self._api_keys or self._jwt is not None
        self._credentials = (_AUTHORIZATION, *forwarded) if taken else forwarded
        forwards = self._jwt is not None and self._jwt.forward
        self._credentials_of_jwt = forwarded if forwards else self._credentials
        self._ways = _ways(self._api_keys, self._jwt, self._trusted)

    def identify(self, head: RequestHead) -> Caller:
        """See `Gate`."""
        if self._jwt is not None and head.claims:
            return self._by_claims(head, self._jwt)
        shown = self._shown(head)
        if shown is not None:
            return self._by_key(head, shown)
        if self._trusted is not None:
            tenant = head.headers.get(self._trusted.tenant)
            if tenant:
                return self._by_header(head, self._trusted, tenant)
        policy = self._directory.anonymous()
        if policy is None:
            _refuse(f"This request does not tell who sends it. {self._ways}")
        return self._caller(policy)

    def on_behalf(self, tenant: str, key_id: str, user: str) -> Caller:
        """A request that this gateway makes for a client that it has identified before: by the key
        that it had then, or one that this key was rotated to. Raises Rejection when the tenant or
        key is no longer accepted."""
        if not key_id:
            return self._caller(self._named_or_anonymous(tenant), user=user)
        key = self._directory.key(key_id)
        if key is None or key.tenant != tenant:
            _refuse(f"The API key {key_id} does not exist any more.")
        now_s = self._now_s()
        if key.state(now_s) is not KeyState.ACTIVE:
            line = key.line
            of_line = (one for one in self._directory.keys(tenant) if one.line == line)
            latest = next((one for one in of_line if one.state(now_s) is KeyState.ACTIVE), None)
            if latest is None or key.state(now_s) is KeyState.REVOKED:
                _refuse(_over(key, key.state(now_s)), Caller(TenantPolicy(tenant), key.id))
            key = latest
        policy = self._directory.policy_of(key)
        if policy is None:
            _refuse(f"The API key {key.id} is of a tenant that does not exist any more.")
        if policy.disabled:
            _disabled(Caller(policy, key.id))
        return Caller(policy, key.id, key.line, user, key.models, self._credentials)

    def _named_or_anonymous(self, tenant: str) -> TenantPolicy:
        anonymous = self._directory.anonymous()
        if anonymous is not None and anonymous.tenant == tenant:
            return anonymous
        return self._named(tenant)

    # -- API keys

    def _shown(self, head: RequestHead) -> str | None:
        """The API key of the request, checked or not; None: it has none."""
        given = head.headers.get(_AUTHORIZATION)
        if given and (self._api_keys or self._jwt is not None):
            scheme, _, credential = given.partition(" ")
            credential = credential.strip()
            if scheme.lower() != "bearer" or not credential:
                _refuse("The Authorization header is not `Bearer` and a key or token.")
            if self._jwt is not None and (not self._api_keys or _is_token(credential)):
                why = head.claims_error or "it could not be verified"
                _refuse(f"The token is not accepted: {why}")
            return credential
        if self._api_keys:
            for name in _KEY_HEADERS:
                if given := head.headers.get(name):
                    return given
        return None

    def _by_key(self, head: RequestHead, shown: str) -> Caller:
        key = self._directory.find_key(digest_of(shown))
        if key is None:
            _refuse("The API key is not known.")
        if key.revoked_s is not None or key.expires_s is not None:
            state = key.state(self._now_s())
            if state is not KeyState.ACTIVE:
                _refuse(_over(key, state), Caller(TenantPolicy(key.tenant), key.id))
        policy = self._directory.policy_of(key)
        if policy is None:
            _refuse(f"The API key {key.id} is of a tenant that does not exist any more.")
        if policy.disabled:
            _disabled(Caller(policy, key.id))
        user = head.headers.get(self._user_header, "") if self._user_header is not None else ""
        return Caller(
            policy, key.id, key.line, bounded(user) if user else "", key.models, self._credentials
        )

    # -- tenants by name

    def _by_claims(self, head: RequestHead, jwt: Jwt) -> Caller:
        tenant = _claim(head.claims, jwt.tenant_claim)
        if not isinstance(tenant, str) or not tenant:
            state = "is missing" if tenant is None else "is not a text"
            _refuse(f"The token is not accepted: its claim {jwt.tenant_claim!r} {state}.")
        user = None if jwt.user_claim is None else _claim(head.claims, jwt.user_claim)
        if user is not None and not isinstance(user, str | int):
            _refuse(f"The token is not accepted: its claim {jwt.user_claim!r} is not a text.")
        return self._caller(
            self._named(tenant),
            user="" if user is None else str(user),
            credentials=self._credentials_of_jwt,
        )

    def _by_header(self, head: RequestHead, trusted: TrustedHeaders, tenant: str) -> Caller:
        user = "" if trusted.user is None else head.headers.get(trusted.user, "")
        return self._caller(self._named(tenant), user=user)

    def _named(self, tenant: str) -> TenantPolicy:
        policy = self._directory.policy_named(tenant)
        if policy is None:
            shown = tenant if len(tenant) <= _MAX_SHOWN else f"{tenant[:_MAX_SHOWN]}..."
            raise Rejection(Reason.UNKNOWN_TENANT, f"There is no tenant {shown!r}.")
        return policy

    def _caller(
        self, policy: TenantPolicy, *, user: str = "", credentials: tuple[str, ...] | None = None
    ) -> Caller:
        if policy.disabled:
            _disabled(Caller(policy))
        stripped = self._credentials if credentials is None else credentials
        return Caller(policy, user=bounded(user), credentials=stripped)


def _refuse(message: str, caller: Caller | None = None) -> NoReturn:
    raise Rejection(Reason.INVALID_API_KEY, message, headers=_CHALLENGE, caller=caller)


def _disabled(caller: Caller) -> NoReturn:
    message = f"The tenant {caller.tenant!r} is disabled."
    raise Rejection(Reason.TENANT_DISABLED, message, caller=caller)


def _over(key: KeyRecord, state: KeyState) -> str:
    if state is KeyState.REVOKED:
        return f"The API key {key.id} was revoked."
    when = datetime.fromtimestamp(key.expires_s or 0.0, UTC)
    return f"The API key {key.id} expired on {when:%Y-%m-%dT%H:%M:%SZ}."


def _is_token(credential: str) -> bool:
    """Whether it has the form of a signed token (RFC 7519): a JSON object in base64url, and two
    more parts."""
    return credential.startswith("eyJ") and credential.count(".") == 2


def _claim(claims: Mapping[str, object], path: str) -> object:
    """The claim of that name or, where the name has dots, the nested claim; None: there is none."""
    if path in claims:
        return claims[path]
    found: object = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def _ways(api_keys: bool, jwt: Jwt | None, trusted: TrustedHeaders | None) -> str:
    """How a client can identify itself, for the answer to a client that did not."""
    if api_keys:
        token = " or token" if jwt is not None else ""
        return f"Send `Authorization: Bearer` with an API key{token}."
    if jwt is not None:
        return "Send `Authorization: Bearer` with a token."
    return "It must come through the proxy that names its tenant." if trusted is not None else ""
