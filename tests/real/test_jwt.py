"""Tokens: Envoy verifies them, the picker decides what becomes of the request."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import aiohttp
import jwt
import pytest
import pytest_asyncio
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.envoy.jwt import JwtProvider
from gateway.envoy.plan import EnvoyPlan
from picker.request.caller import ANONYMOUS, Caller
from picker.request.head import RequestHead
from picker.request.rejection import Reason, Rejection
from policies.limits.plan import TenantPolicy
from tests.picker.fleet import MODEL
from tests.real.edge import Edge
from tests.real.gateway import Gateway, Json, eventually
from tests.real.ports import free_port
from tests.real.replicas import FAST, Replica
from tests.real.scripted import Engine, Script

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ISSUER: Final = "https://id.test/"
OURS: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
THEIRS: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CHAT: Final = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
PATH: Final = "/v1/chat/completions"


def key_set(key: rsa.RSAPrivateKey = OURS) -> str:
    """As an identity provider publishes it."""
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    return json.dumps({"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]})


def token(key: rsa.RSAPrivateKey = OURS, **changes: object) -> str:
    """A good token of the tenant acme, or one with ``changes``; None leaves a claim out."""
    claims = {
        "iss": ISSUER,
        "aud": "llm",
        "sub": "ada",
        "tenant": "acme",
        "exp": int(time.time()) + 600,
        **changes,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm="RS256", headers={"kid": "1"})


def unsigned() -> str:
    """A token whose header says that it needs no signature."""
    claims = {"iss": ISSUER, "aud": "llm", "tenant": "acme", "exp": int(time.time()) + 600}
    return jwt.encode(claims, "", algorithm="none")


def signed_with_the_public_key() -> str:
    """The public key taken for a shared secret."""
    secret = json.loads(key_set())["keys"][0]["n"]
    claims = {"iss": ISSUER, "aud": "llm", "tenant": "acme", "exp": int(time.time()) + 600}
    return jwt.encode(claims, secret, algorithm="HS256", headers={"kid": "1"})


def tampered() -> str:
    """Another tenant's name under the signature of a good token."""
    head, _, signature = token().split(".")
    return f"{head}.{token(tenant='root').split('.')[1]}.{signature}"


@dataclass
class Door:
    """A gate that asks for a token, and remembers what it was told."""

    heads: list[RequestHead] = field(default_factory=list)

    def identify(self, head: RequestHead) -> Caller:
        """See `picker.request.caller.Gate`."""
        self.heads.append(head)
        if head.claims_error:
            raise Rejection(Reason.INVALID_API_KEY, head.claims_error)
        tenant = head.claims.get("tenant", ANONYMOUS)
        return Caller(TenantPolicy(str(tenant)))


@dataclass
class Setting:
    """A gateway that takes tokens, and the replica behind it."""

    edge: Edge
    engine: Engine
    door: Door
    http: aiohttp.ClientSession

    async def ask(self, authorization: str | None, **headers: str) -> RequestHead:
        """The request as the gate saw it."""
        sent = dict(headers)
        if authorization is not None:
            sent["authorization"] = authorization
        async with self.http.post(PATH, json=CHAT, headers=sent) as answer:
            await answer.read()
        return self.door.heads[-1]


ANSWER: Final = Script([b"{}"], headers={"content-type": "application/json"})
GIVEN: Final = JwtProvider(ISSUER, ("llm", "other"), jwks=key_set(), jwks_uri=None)


def with_tokens(tokens: JwtProvider) -> Callable[[EnvoyPlan], EnvoyPlan]:
    """A plan that takes them."""
    return lambda plan: replace(plan, jwt=tokens)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def setting() -> AsyncIterator[Setting]:
    door = Door()
    async with (
        Engine(ANSWER) as engine,
        Edge([engine.address], gate=door, plan=with_tokens(GIVEN)) as edge,
        aiohttp.ClientSession(edge.url) as http,
    ):
        yield Setting(edge, engine, door, http)


async def test_a_good_token_tells_its_claims(setting: Setting) -> None:
    expires = int(time.time()) + 600
    good = token(exp=expires, org={"id": 7, "teams": ["a", "b"]}, ratio=0.5, admin=True, none={})
    head = await setting.ask(f"Bearer {good}")
    assert head.claims_error == ""
    assert head.claims == {
        "iss": ISSUER,
        "aud": "llm",
        "sub": "ada",
        "tenant": "acme",
        "exp": expires,
        "org": {"id": 7, "teams": ["a", "b"]},
        "ratio": 0.5,
        "admin": True,
        "none": {},
    }


async def test_the_scheme_in_lower_case(setting: Setting) -> None:
    assert (await setting.ask(f"bearer {token()}")).claims["tenant"] == "acme"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        pytest.param(lambda: token(exp=int(time.time()) - 300), "expired", id="expired"),
        pytest.param(lambda: token(nbf=int(time.time()) + 300), "not yet valid", id="not yet"),
        pytest.param(lambda: token(exp=None), "verification fails", id="never ends"),
        pytest.param(lambda: token(iss="https://evil.test/"), "issuer", id="issuer"),
        pytest.param(lambda: token(iss=None), "issuer", id="no issuer"),
        pytest.param(lambda: token(aud="mail"), "Audiences", id="audience"),
        pytest.param(lambda: token(aud=None), "Audiences", id="no audience"),
        pytest.param(lambda: token(THEIRS), "verification fails", id="another key"),
        pytest.param(tampered, "verification fails", id="tampered"),
        pytest.param(unsigned, "Jwt", id="unsigned"),
        pytest.param(signed_with_the_public_key, "alg", id="public key as secret"),
        pytest.param(lambda: "garbage", "Jwt is not in the form", id="garbage"),
        pytest.param(lambda: "a.b.c", "Jwt", id="three parts"),
        pytest.param(lambda: "x" * 20_000, "Jwt is not in the form", id="long"),
    ],
)
async def test_a_bad_token_tells_why(setting: Setting, given: Callable[[], str], why: str) -> None:
    text = given()
    head = await setting.ask(f"Bearer {text}")
    assert head.claims == {}
    assert why in head.claims_error
    assert head.headers["authorization"] == f"Bearer {text}"


@pytest.mark.parametrize("authorization", [None, "", "Basic YTpi", "Bearer", "bearer"], ids=repr)
async def test_no_token_is_nothing_bad(setting: Setting, authorization: str | None) -> None:
    head = await setting.ask(authorization)
    assert (head.claims, head.claims_error) == ({}, "")


async def test_a_token_is_taken_from_the_authorization_header_alone(setting: Setting) -> None:
    good = token()
    cookies = {"cookie": f"token={good}; access_token={good}"}
    async with setting.http.post(
        f"{PATH}?access_token={good}", json=CHAT, headers={"x-api-key": good, **cookies}
    ):
        pass
    assert setting.door.heads[-1].claims == {}


@pytest.mark.parametrize(
    "name", ["x-jwt-claims", "claims", "envoy.filters.http.jwt_authn", "x-jwt-payload"]
)
async def test_a_client_cannot_make_claims_up(setting: Setting, name: str) -> None:
    head = await setting.ask(None, **{name: json.dumps({"tenant": "root"})})
    assert head.claims == {}
    head = await setting.ask(f"Bearer {token()}", **{name: json.dumps({"tenant": "root"})})
    assert head.claims["tenant"] == "acme"


async def test_a_good_token_is_not_the_replicas_business(setting: Setting) -> None:
    good = token()
    head = await setting.ask(f"Bearer {good}")
    assert "authorization" not in head.headers
    assert "authorization" not in setting.engine.headers[-1]
    assert good not in json.dumps(setting.engine.headers[-1])


async def test_the_refusal_is_in_the_clients_shape(setting: Setting) -> None:
    bad = {"authorization": f"Bearer {token(aud='mail')}"}
    async with setting.http.post(PATH, json=CHAT, headers=bad) as answer:
        told = await answer.json()
        assert (answer.status, told["error"]["code"]) == (401, "invalid_api_key")
    async with setting.http.post("/v1/messages", json=CHAT, headers=bad) as answer:
        told = await answer.json()
        assert (answer.status, told["type"]) == (401, "error")


async def test_the_replica_gets_the_token_where_it_is_meant_to() -> None:
    door, good = Door(), token()
    given = replace(GIVEN, audiences=(), forward=True)
    async with (
        Engine(ANSWER) as engine,
        Edge([engine.address], gate=door, plan=with_tokens(given)) as edge,
        aiohttp.ClientSession(edge.url) as http,
    ):
        setting = Setting(edge, engine, door, http)
        head = await setting.ask(f"Bearer {good}")
        assert head.claims["tenant"] == "acme"
        assert engine.headers[-1]["authorization"] == f"Bearer {good}"
        assert (await setting.ask(f"Bearer {token(aud='mail')}")).claims["aud"] == "mail"


@dataclass
class Publisher:
    """Where an identity provider has its keys."""

    keys: str | None = None
    asked: int = 0

    async def serve(self, _: web.Request) -> web.Response:
        """The keys, or an error as long as there are none."""
        self.asked += 1
        return web.Response(text=self.keys or "", status=200 if self.keys else 500)


async def test_keys_from_their_publisher() -> None:
    door, publisher, port = Door(), Publisher(), free_port()
    app = web.Application()
    app.router.add_get("/keys", publisher.serve)
    given = replace(GIVEN, jwks=None, jwks_uri=f"http://127.0.0.1:{port}/keys")
    async with (
        Engine(ANSWER) as engine,
        Edge([engine.address], gate=door, plan=with_tokens(given)) as edge,  # nobody publishes yet
        aiohttp.ClientSession(edge.url) as http,
    ):
        setting = Setting(edge, engine, door, http)
        assert (await setting.ask(None)).claims_error == ""
        assert (await setting.ask("Bearer key-of-ours")).claims_error
        assert "fetch" in (await setting.ask(f"Bearer {token()}")).claims_error
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        assert "fetch" in (await setting.ask(f"Bearer {token()}")).claims_error
        publisher.keys = key_set()

        async def good() -> bool:
            return (await setting.ask(f"Bearer {token()}")).claims != {}

        await eventually(good, "the published keys are known")
        asked = publisher.asked
        for _ in range(20):
            assert (await setting.ask(f"Bearer {token()}")).claims["tenant"] == "acme"
        assert publisher.asked <= asked + 1
        await runner.cleanup()
        assert (await setting.ask(f"Bearer {token()}")).claims["tenant"] == "acme"
        assert (await setting.ask(f"Bearer {token(THEIRS)}")).claims_error


async def test_a_whole_penstock(tmp_path: Path) -> None:
    """A token's tenant is let in beside a key's; whoever shows neither is told so."""
    keys = tmp_path / "keys.json"
    keys.write_text(key_set())
    async with Replica(tmp_path, *FAST, model=MODEL) as replica:
        given = {"issuer": ISSUER, "audiences": ["llm"], "jwks": {"file": str(keys)}}
        digest = hashlib.sha256(b"a key of acme's own").hexdigest()
        config: Json = {
            "identity": {"jwt": given},
            "tenants": [{"name": "acme", "keys": [{"id": "ci", "sha256": digest}]}],
            "pools": [{"name": "chat", "type": "static", "endpoints": [replica.address]}],
        }
        asked = {
            "": 401,
            f"Bearer {token()}": 200,
            "Bearer a key of acme's own": 200,
            "Bearer a key of nobody's": 401,
            f"Bearer {token(tenant='nobody')}": 403,
            f"Bearer {token(exp=int(time.time()) - 300)}": 401,
            f"Bearer {token(THEIRS)}": 401,
        }
        async with Gateway(tmp_path, config) as gateway, aiohttp.ClientSession(gateway.url) as http:
            for shown, status in asked.items():
                headers = {"authorization": shown} if shown else {}
                async with http.post(PATH, json=CHAT, headers=headers) as answer:
                    assert (shown, answer.status) == (shown, status), await answer.text()
            lines: list[object] = []

            async def all_told() -> bool:
                lines[:] = [
                    line["tenant"] for line in gateway.request_log() if line["status"] == 200
                ]
                return len(lines) == 2

            await eventually(all_told, "both requests are in the log")
            assert lines == ["acme", "acme"]
