"""Identity: how Penstock learns which tenant a request is from."""

from __future__ import annotations

import re
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gateway.config.schema.fault import Fault, raise_faults, refuse
from gateway.config.schema.secret import Secret
from gateway.config.schema.section import Section
from gateway.config.schema.terms import Name

_TOKEN: Final = re.compile(r"[a-z0-9][a-z0-9!#$%&'*+.^_`|~-]*")
_TAKEN: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "api-key",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
        "x-request-id",
    }
)
_TAKEN_PREFIXES: Final = ("x-envoy", "x-penstock", "x-gateway-", "x-llm-d-", "x-ratelimit-")


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value) or len(value) > 64:
        hint = "header names are compared in lower case" if value != value.lower() else None
        raise refuse("the name of a header in lower case, such as x-tenant-id", hint=hint)
    if value in _TAKEN or value.startswith(_TAKEN_PREFIXES):
        raise refuse(
            "a header that nothing else uses, such as x-tenant-id", hint=f"{value} has a meaning"
        )
    return value


def _issuer(value: str) -> str:
    if not value or any(c.isspace() for c in value):
        raise refuse("the issuer as the tokens' `iss` has it, such as https://login.example.com/")
    return value


def _jwks_uri(value: str) -> str:
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or any(c.isspace() for c in value):
        raise refuse("an https:// or http:// URL")
    if parts.username is not None or parts.password is not None:
        raise refuse("a URL without a user or password", got="a URL with one, which is not shown")
    return value


def _claim(value: str) -> str:
    if not value or value.startswith(".") or value.endswith(".") or ".." in value:
        raise refuse("the name of a claim; dots lead into nested ones: org.id")
    return value


HeaderName = Annotated[str, AfterValidator(_header_name)]
Claim = Annotated[str, AfterValidator(_claim)]


class TrustedHeaders(Section):
    """Headers that a proxy in front of Penstock sets. Use them only when every request comes
    through that proxy, and when it removes these headers from what clients send: whoever can set
    them can pass for any tenant. OpenAI's clients always send an `Authorization` header, which
    counts first and gives 401 when it holds no key of Penstock's: set `api_keys: false`, or have
    the proxy remove `authorization`, `x-api-key` and `api-key`."""

    tenant: HeaderName = "x-tenant-id"
    """Header that names the tenant."""
    user: HeaderName | None = None
    """Header that names the user. Null: the body's `user`."""

    @model_validator(mode="after")
    def _two_headers(self) -> Self:
        if self.user == self.tenant:
            raise_faults("trusted_headers", [Fault(("user",), "another header than the tenant's")])
        return self


class Jwt(Section):
    """Tokens (RFC 7519) in the Authorization header, verified by Envoy. A token must say when it
    ends (`exp`): one without is refused."""

    issuer: Annotated[str, AfterValidator(_issuer)]
    """The tokens' `iss`."""
    audiences: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """A token must be for one of these (`aud`). `[]`: every token of the issuer counts, also one
    that was made for another service."""
    jwks: Secret | None = None
    """Keys that sign the tokens, a JSON Web Key Set (RFC 7517)."""
    jwks_uri: Annotated[str, AfterValidator(_jwks_uri)] | None = None
    """URL of the key set, instead of `jwks`; Envoy fetches it, and again when it is old."""
    tenant_claim: Claim = "tenant"
    """Claim that names the tenant; dots lead into nested ones."""
    user_claim: Claim | None = "sub"
    """Claim that names the user. Null: the body's `user`."""
    forward: bool = False
    """Send the token on to the replica."""

    @model_validator(mode="after")
    def _one_key_set(self) -> Self:
        if (self.jwks is None) == (self.jwks_uri is None):
            raise refuse(
                "exactly one of jwks and jwks_uri",
                got="both" if self.jwks is not None else "neither",
            )
        return self


class Identity(Section):
    """How Penstock learns which tenant a request is from: by a token, else by an API key, else by
    a trusted header. A wrong token or key is answered with 401, whatever else the request has."""

    api_keys: bool = True
    """Accept API keys, in `Authorization: Bearer`, `x-api-key` or `api-key`."""
    trusted_headers: TrustedHeaders | None = None
    """Trust the headers of a proxy in front of Penstock. Null: they are ignored."""
    jwt: Jwt | None = None
    """Accept tokens of an identity provider."""
    user_header: HeaderName | None = None
    """Header in which clients may name the user of a request with a key, for limits by user.
    Nothing proves it: a client that names another user each time gets a full limit each time.
    Null: only the body's `user`."""
    anonymous: Name | None = None
    """Tenant that requests without key, token and trusted header count as. Null: 401."""
    unknown_tenants: Name | None = None
    """Plan of the tenants that a trusted header or a token names and that are not configured.
    Null: 403."""

    @model_validator(mode="after")
    def _somebody_gets_in(self) -> Self:
        faults = []
        named = self.trusted_headers is not None or self.jwt is not None
        if not (self.api_keys or named or self.anonymous is not None):
            faults.append(
                Fault(
                    ("api_keys",),
                    "a way in: api_keys, trusted_headers, jwt or anonymous",
                    hint="like this every request is refused",
                )
            )
        if self.unknown_tenants is not None and not named:
            faults.append(
                Fault(
                    ("unknown_tenants",),
                    "trusted_headers or jwt beside it",
                    hint="only they can name a tenant that is not configured",
                )
            )
        trusted = self.trusted_headers
        if (
            trusted is not None
            and self.user_header in (trusted.tenant, trusted.user)
            and (self.user_header is not None)
        ):
            faults.append(
                Fault(
                    ("user_header",),
                    "a header that is not one of trusted_headers",
                    hint="clients may set user_header; to take the proxy's word it is enough to "
                    "have it in trusted_headers",
                )
            )
        raise_faults("identity", faults)
        return self
