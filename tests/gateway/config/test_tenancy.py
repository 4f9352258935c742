"""Tenants, plans, keys, limits and prices in the file: what is accepted, and what is told."""

from __future__ import annotations

import hashlib
import textwrap
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.config import Config
from gateway.config.reading.documents import key_rules_from, stale, tenant_from
from gateway.config.reading.load import load
from gateway.config.reading.problems import ConfigError
from gateway.config.reading.wire import from_json, to_json
from gateway.config.schema.limit import Limit
from gateway.config.schema.redis import RedisChoice
from gateway.config.schema.tenancy import Tenant, TenantKey

PRIVATE = "correct-horse-battery"
HASH = hashlib.sha256(b"k").hexdigest()
OTHER = hashlib.sha256(b"l").hexdigest()
POOLS = "pools: [{name: chat, type: simulated}]\n"
LIMIT = "tenants: [{{name: a, limits: [{}]}}]"
KEY = "tenants: [{{name: a, keys: [{{id: k, sha256: {}}}]}}]"
REDIS = "limits: {{store: {{redis: {{{}}}}}}}"
PRICES = "identity: {{}}\npricing: {{models: [{}]}}"


def loaded(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Config:
    path = tmp_path / "penstock.yaml"
    path.write_text(textwrap.dedent(text))
    return load(path, environment=environment or {})


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        # limits
        (LIMIT.format("{count: requests, limit: 1}"), "period", "one of second, minute"),
        (LIMIT.format("{count: requests, limit: 1.5, period: day}"), "limit", "a whole number of"),
        (LIMIT.format("{count: requests, limit: 0, period: day}"), "limit", "disabled: true"),
        (LIMIT.format("{count: requests, limit: -1, period: day}"), "limit", "above 0"),
        (LIMIT.format("{count: requests, limit: many, period: day}"), "limit", "a number"),
        (LIMIT.format("{count: requests, limit: true, period: day}"), "limit", "a number"),
        (LIMIT.format("{count: requests, limit: 1e16, period: day}"), "limit", "at most 10000"),
        (LIMIT.format("{count: requests, limit: 1e99, period: day}"), "limit", "18 digits"),
        (LIMIT.format("{count: requests, limit: .inf, period: day}"), "limit", "a number"),
        (LIMIT.format("{count: cost, limit: 0.1234567, period: day}"), "limit", "6 decimal places"),
        (LIMIT.format("{count: cost, limit: 1e-7, period: day}"), "limit", "6 decimal places"),
        (LIMIT.format("{count: cost, limit: 1e10, period: day}"), "limit", "at most 1000000000"),
        (LIMIT.format("{count: cost, limit: 5, period: day}"), "count", "prices in pricing.models"),
        (LIMIT.format("{count: tokens, limit: 5, period: day}"), "count", "one of requests"),
        (LIMIT.format("{count: requests, limit: 5, period: week}"), "period", "one of second"),
        (LIMIT.format("{count: concurrency, limit: 5, period: day}"), "period", "nothing"),
        (LIMIT.format("{count: concurrency, limit: 5, window: calendar}"), "window", "nothing"),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, window: calendar, burst: 9}"),
            "burst",
            "window: rolling",
        ),
        (
            LIMIT.format("{count: cost, limit: 5, period: month, burst: 9}"),
            "burst",
            "window: rolling",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, weights: {input: 1}}"),
            "weights",
            "count: weighted_tokens",
        ),
        (
            LIMIT.format("{count: requests, limit: 5, period: day, by: [key, key]}"),
            "by[1]",
            "each one once",
        ),
        (
            POOLS + LIMIT.format("{count: requests, limit: 5, period: day, pools: [chta]}"),
            "pools[0]",
            "did you mean chat?",
        ),
        (
            LIMIT.format("{name: Big, count: requests, limit: 5, period: day}"),
            "name",
            "lower-case letters",
        ),
    ],
)
def test_limits_that_cannot_be(tmp_path: Path, text: str, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    (problem,) = refused.value.problems
    assert problem.key == f"tenants[0].limits[0].{key}"
    assert says in str(problem)
    assert problem.line > 0


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        # names
        ("plans: [{name: a}, {name: a}]", "plans[1].name", "plans[0] has it already"),
        ("tenants: [{name: a}, {name: a}]", "tenants[1].name", "tenants[0] has it already"),
        ("plans: [{name: gold}]\ntenants: [{name: a, plan: gld}]", "tenants[0].plan", "mean gold?"),
        ("tenants: [{name: a, plan: gold}]", "tenants[0].plan", "there is none"),
        (
            "plans: [{name: g, limits: [&l {count: concurrency, limit: 1}, *l]}]",
            "plans[0].limits[1].name",
            "limits[0] has it already; give one of them a name",
        ),
        ("plans: [{name: g, priority: 1.5}]", "plans[0].priority", "a whole number"),
        ("plans: [{name: g, on_store_failure: opne}]", "plans[0].on_store_failure", "mean open?"),
        ("plans: [{name: g, models: [' x']}]", "plans[0].models[0]", "without white space"),
        # keys
        (
            KEY.format(HASH)[:-1] + f", {{name: b, keys: [{{id: k, sha256: {OTHER}}}]}}]",
            "tenants[1].keys[0].id",
            "tenants[0].keys[0] has it already",
        ),
        (
            KEY.format(HASH)[:-3] + f", {{id: l, sha256: {HASH.upper()}}}]}}]",
            "tenants[0].keys[1].sha256",
            "tenants[0].keys[0] has it already",
        ),
        (
            "identity: {api_keys: false, trusted_headers: {}}\n" + KEY.format(HASH),
            "tenants[0].keys",
            "identity.api_keys is false",
        ),
        (
            KEY.format(HASH + ", expires: 2027-01-31"),
            "tenants[0].keys[0].expires",
            "with its zone, such as 2027-01-31T00:00:00Z",
        ),
        (
            KEY.format(HASH + ", expires: 2027-01-31T00:00:00"),
            "tenants[0].keys[0].expires",
            "Z at the end is UTC",
        ),
        (KEY.format(HASH + ", expires: 5"), "tenants[0].keys[0].expires", "a date and time"),
        (
            KEY.format(HASH + ", limits: [{count: concurrency, limit: 0}]"),
            "tenants[0].keys[0].limits[0].limit",
            "above 0",
        ),
        # identity
        ("identity: {api_keys: false}", "identity.api_keys", "every request is refused"),
        ("identity: {unknown_tenants: x}", "identity.unknown_tenants", "trusted_headers or jwt"),
        (
            "identity: {trusted_headers: {}, unknown_tenants: fre}\nplans: [{name: free}]",
            "identity.unknown_tenants",
            "did you mean free?",
        ),
        (
            "identity: {anonymous: vistors}\ntenants: [{name: visitors}]",
            "identity.anonymous",
            "did you mean visitors?",
        ),
        ("identity: {anonymous: any}", "identity.anonymous", "hold for everybody without"),
        ("identity: {user_header: X-User}", "identity.user_header", "in lower case"),
        ("identity: {user_header: 'x user'}", "identity.user_header", "the name of a header"),
        ("identity: {user_header: ':path'}", "identity.user_header", "the name of a header"),
        ("identity: {user_header: connection}", "identity.user_header", "connection has a meaning"),
        (
            "identity: {trusted_headers: {tenant: authorization}}",
            "identity.trusted_headers.tenant",
            "authorization has a meaning",
        ),
        (
            "identity: {trusted_headers: {tenant: x-envoy-tenant}}",
            "identity.trusted_headers.tenant",
            "x-envoy-tenant has a meaning",
        ),
        (
            "identity: {trusted_headers: {tenant: x-penstock-pool}}",
            "identity.trusted_headers.tenant",
            "has a meaning",
        ),
        (
            "identity: {trusted_headers: {tenant: x-t, user: x-t}}",
            "identity.trusted_headers.user",
            "another header",
        ),
        (
            "identity: {trusted_headers: {user: x-u}, user_header: x-u}",
            "identity.user_header",
            "a header that is not one of trusted_headers",
        ),
        ("identity: {jwt: {issuer: a}}", "identity.jwt", "exactly one of jwks and jwks_uri"),
        (
            "identity: {jwt: {issuer: a, jwks_uri: 'ftp://x'}}",
            "identity.jwt.jwks_uri",
            "https://",
        ),
        (
            "identity: {jwt: {issuer: a, jwks_uri: 'https://x', tenant_claim: a..b}}",
            "identity.jwt.tenant_claim",
            "dots lead into nested ones",
        ),
        (
            "identity: {jwt: {issuer: a, jwks_uri: 'https://x'}}\nenvoy: {enabled: false}",
            "identity.jwt",
            "set trusted_headers",
        ),
        # pickers
        (
            "tenants: [{name: a}]\npicker: {workers: 4}",
            "limits.store",
            "each would admit the whole of every limit",
        ),
        (
            "tenants: [{name: a}]\npicker: {failure_mode: open}",
            "picker.failure_mode",
            "open lets everybody in",
        ),
        # prices
        ("pricing: {}", "pricing", "`identity` beside it"),
        ("identity: {}\npricing: {currency: usd}", "pricing.currency", "three letters"),
        (
            PRICES.format("{model: m, input: 1}"),
            "pricing.models[0]",
            "output: 0 for a model that makes no output",
        ),
        (
            PRICES.format("{model: m, input: 1, output: 1, cel: '1'}"),
            "pricing.models[0]",
            "either `cel` alone, or prices",
        ),
        (
            PRICES.format("{model: m, input: -0.1, output: 1}"),
            "pricing.models[0].input",
            "greater than or equal to 0",
        ),
        (
            PRICES.format("{model: m, input: 0.1234567, output: 1}"),
            "pricing.models[0].input",
            "at most 6 decimal places",
        ),
        (
            PRICES.format("{model: m, cel: 'input_tokens * 0.5'}"),
            "pricing.models[0].cel",
            "write double(input_tokens)",
        ),
        (
            PRICES.format("{model: m, cel: 'prompt_tokens'}"),
            "pricing.models[0].cel",
            "prompt_tokens at line 1, column 1",
        ),
        (
            "identity: {}\npricing: {weights: {cel: 'input_tokens', output: 2}}",
            "pricing.weights",
            "either `cel` alone, or numbers",
        ),
        # stores
        (REDIS.format("url: 'http://x'"), "limits.store.redis.url", "redis://HOST:PORT/DB"),
        (REDIS.format("url: 'redis://'"), "limits.store.redis.url", "redis://HOST:PORT/DB"),
        (REDIS.format("url: 'redis://x:99999'"), "limits.store.redis.url", "redis://HOST:PORT/DB"),
        (
            REDIS.format("url: 'unix:///r', cluster: true"),
            "limits.store.redis.cluster",
            "not reached by a unix socket",
        ),
        (
            REDIS.format("url: 'redis://x/3', cluster: true"),
            "limits.store.redis.url",
            "database 0",
        ),
        (REDIS.format("url: 'redis://x', prefix: '{x}'"), "limits.store.redis.prefix", "braces"),
        ("limits: {store: memroy}", "limits.store", "did you mean memory?"),
        ("limits: {store: {}}", "limits.store.redis", "the key `redis`"),
        ("limits: {lease_s: 0.5}", "limits.lease_s", "greater than or equal to 1"),
        (
            "limits: {output_quantile: {min: 50, prior: 20}}",
            "limits.output_quantile.prior",
            "50 to 16384",
        ),
        # the admin API
        ("admin: {address: 0.0.0.0}", "admin.address", "a loopback address, or `token`"),
        ("admin: {address: 192.168.1.1}", "admin.address", "could make API keys"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, text: str, key: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    (problem,) = refused.value.problems
    assert problem.key == key
    assert says in str(problem)
    assert problem.line > 0


@pytest.mark.parametrize(
    "text",
    [
        # several pickers without tenants share nothing that limits
        "picker: {workers: 4, failure_mode: open}",
        "identity: {anonymous: a}\ntenants: [{name: a}]\npicker: {failure_mode: open}",
        "tenants: [{name: a}]\npicker: {workers: 4}\n" + REDIS.format("url: 'redis://h:1/2'"),
        REDIS.format("url: 'rediss://user@h', cluster: true"),
        REDIS.format("url: 'unix:///run/redis.sock?db=1'"),
        "admin: {address: '::1'}",
        "identity: {trusted_headers: {tenant: x-team, user: x-mail}}\nenvoy: {enabled: false}",
        # the same name at two places is no clash
        """
        plans: [{name: p, limits: [{count: concurrency, limit: 1}]}]
        tenants: [{name: p, plan: p, limits: [{count: concurrency, limit: 2}]}]
        """,
        """
        pricing: {models: [{model: '*', input: 0, output: 0}]}
        plans: [{name: p, limits: [{count: cost, limit: 0.000001, period: day}]}]
        """,
        POOLS + "tenants: [{name: a, limits: [{count: concurrency, limit: 1, pools: [chat]}]}]",
    ],
)
def test_what_does_fit_together(tmp_path: Path, text: str) -> None:
    loaded(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        KEY.format(PRIVATE),
        KEY.format(f"{HASH[:-1]}-{PRIVATE}"),
        KEY.format("{env: PRIVATE}"),
        REDIS.format(f"url: 'redis://:{PRIVATE}@h/0'"),
        REDIS.format(f"url: 'redis://h/0?password={PRIVATE}'"),
        REDIS.format(f"url: 'http://:{PRIVATE}@h/0'"),
        REDIS.format("url: {env: PRIVATE}"),
        f"identity: {{jwt: {{issuer: a, jwks_uri: 'https://u:{PRIVATE}@x'}}}}",
        f"identity: {{jwt: {{issuer: a, jwks: {PRIVATE}}}}}",
        f"admin: {{token: {PRIVATE}}}",
        "admin: {token: {env: SHORT}}",
        "admin: {token: {env: SPACED}}",
    ],
)
def test_what_may_be_a_secret_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    environment = {"PRIVATE": PRIVATE, "SHORT": PRIVATE[:8], "SPACED": f"{PRIVATE} {PRIVATE}"}
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text, environment)
    (problem,) = refused.value.problems
    assert problem.line > 0
    assert PRIVATE[:8] not in str(refused.value)


def test_secrets_may_be_anywhere_but_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "hash").write_text(HASH + "\n")
    config = loaded(
        tmp_path,
        KEY.format("{file: hash}") + "\nadmin: {address: 0.0.0.0, token: {env: TOKEN}}\n"
        "limits: {store: {redis: {url: {env: REDIS_URL}, timeout_ms: 20, share: 4}}}\n",
        {"TOKEN": PRIVATE, "REDIS_URL": f"redis://:{PRIVATE}@h:6379/0"},
    )
    assert config.tenants[0].keys[0].digest == bytes.fromhex(HASH)
    assert isinstance(config.limits.store, RedisChoice)
    assert config.limits.store.redis.address == f"redis://:{PRIVATE}@h:6379/0"
    assert config.admin.token is not None
    assert config.admin.token.reveal() == PRIVATE
    assert PRIVATE not in repr(config)


def test_numbers_are_taken_as_they_are_written(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        pricing: {models: [{model: m, input: 0.15, cached_input: .015, output: 1e-6},
                           {model: n, input: 3, output: 15.50}]}
        tenants: [{name: a, limits: [{count: cost, limit: 999999999.999999, period: month}]}]
        """,
    )
    assert config.pricing is not None
    first, second = config.pricing.models
    assert (first.input, first.cached_input, first.output) == (
        Decimal("0.15"),
        Decimal("0.015"),
        Decimal("0.000001"),
    )
    assert (second.input, second.output) == (Decimal(3), Decimal("15.5"))
    assert config.tenants[0].limits[0].limit == Decimal("999999999.999999")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"count": "requests", "limit": 1, "period": "second"}', "requests-per-second"),
        ('{"count": "cost", "limit": 1, "period": "month", "name": "budget"}', "budget"),
        ('{"count": "concurrency", "limit": 1, "by": ["user", "key"]}', "concurrency-by-key-user"),
        (
            '{"count": "total_tokens", "limit": 1, "period": "day", "by": ["model"]}',
            "total_tokens-per-day-by-model",
        ),
        (
            '{"count": "requests", "limit": 1, "period": "day", "window": "calendar"}',
            "requests-per-calendar-day",
        ),
        (
            '{"count": "cost", "limit": 1, "period": "day", "window": "rolling"}',
            "cost-per-rolling-day",
        ),
        (
            '{"count": "requests", "limit": 1, "period": "minute", "models": ["small", "big"]}',
            "requests-per-minute-for-big+small",
        ),
        (
            '{"count": "concurrency", "limit": 1, "models": ["org/llama-*"], "pools": ["chat"]}',
            "concurrency-for-org/llama-*-in-chat",
        ),
    ],
)
def test_limits_are_named_by_what_they_count(text: str, name: str) -> None:
    assert Limit.model_validate_json(text).effective_name == name


def test_limits_of_other_requests_have_other_names_and_no_name_is_long() -> None:
    def name(**more: object) -> str:
        limit = {"count": "requests", "limit": 1, "period": "day", **more}
        return Limit.model_validate_json(orjson.dumps(limit)).effective_name

    kinds: list[dict[str, object]] = [
        {"models": models, "pools": pools}
        for pools in ([], ["b"], ["a"], ["a", "b"], ["x" * 60])
        for models in ([], ["a+b"], ["a", "b"], ["a-in-b"], ["a b"], ["a_b"], ["a|key=k"])
    ]
    kinds += [{"models": ["m" * 200 + end]} for end in "xy"]
    kinds += [{"window": "calendar"}, {"by": ["key"]}]
    names = {name(**kind) for kind in kinds}
    assert len(names) == len(kinds)
    assert max(map(len, names)) <= 96
    assert not any("|" in one for one in names)
    assert name(models=["a", "b"], limit=5) == name(models=["b", "a", "a"])


def test_times_are_instants(tmp_path: Path) -> None:
    config = loaded(tmp_path, KEY.format(HASH + ", expires: 2027-01-31T02:00:00+02:00"))
    assert config.tenants[0].keys[0].expires == datetime(2027, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("", False),
        ("limits: {lease_s: 5}", False),
        ("identity: {}", True),
        ("plans: [{name: a}]", True),
        ("tenants: [{name: a}]", True),
        ("identity: {}\npricing: {}", True),
    ],
)
def test_whether_requests_are_told_apart(tmp_path: Path, text: str, has: bool) -> None:
    config = loaded(tmp_path, text)
    assert config.has_tenants is has
    assert config.identity_in_force.api_keys
    assert config.identity_in_force.anonymous is None


def test_a_worker_gets_all_of_it(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        admin: {token: {env: TOKEN}}
        identity: {jwt: {issuer: i, jwks: {env: TOKEN}, audiences: [a]}, unknown_tenants: p,
                   trusted_headers: {user: x-user}}
        plans: [{name: p, limits: [{count: cost, limit: 0.1, period: month, window: calendar}]}]
        tenants:
          - name: a
            plan: p
            models: [x]
            limits: [{count: weighted_tokens, limit: 5, period: day, weights: {output: 0.5}}]
            keys:
              - {id: k, sha256: {env: HASH}, expires: 2027-01-31T00:00:00Z,
                 limits: [{count: requests, limit: 1e15, period: second, burst: 3}]}
        pricing: {models: [{model: x, input: 0.15, output: 0.000001}, {model: y, cel: "1.0"}]}
        limits: {store: {redis: {url: {env: URL}}}}
        state_dir: state
        """,
        {"TOKEN": PRIVATE, "HASH": HASH, "URL": f"redis://:{PRIVATE}@h"},
    )
    content = to_json(config)
    received = from_json(content)
    assert received == config
    assert received.tenants[0].keys[0].digest == bytes.fromhex(HASH)
    assert to_json(received) == content


MICROS = st.integers(1, 10**15)


@given(MICROS)
def test_amounts_travel_exactly(micros: int) -> None:
    amount = Decimal(micros).scaleb(-6)
    limit = Limit(count="cost", limit=amount, period="day")
    assert limit.limit == amount
    assert Limit.model_validate_json(limit.model_dump_json()) == limit


def test_a_tenant_as_the_admin_api_has_it(tmp_path: Path) -> None:
    config = loaded(tmp_path, POOLS + "plans: [{name: gold}]")
    document = {
        "name": "acme",
        "plan": "gold",
        "models": ["llama-*"],
        "limits": [{"count": "requests", "limit": 10, "period": "second", "by": ["user"]}],
    }
    tenant = tenant_from(document, config)
    assert (tenant.name, tenant.plan, tenant.models) == ("acme", "gold", ("llama-*",))
    shown = tenant.model_dump(mode="json")
    assert shown["limits"][0]["limit"] == 10
    assert tenant_from({k: v for k, v in shown.items() if k != "keys"}, config) == tenant


@pytest.mark.parametrize(
    ("document", "key", "says"),
    [
        ({}, "name", "the key `name`"),
        ({"name": "A"}, "name", "lower-case"),
        ({"name": 5}, "name", "text"),
        ({"name": "a", "plan": "gld"}, "plan", "did you mean gold?"),
        ({"name": "a", "pln": "gold"}, "pln", "did you mean plan?"),
        (
            {"name": "a", "limits": [{"count": "request", "limit": 1}]},
            "limits[0].count",
            "requests",
        ),
        ({"name": "a", "limits": {}}, "limits", "a list"),
        (
            {"name": "a", "limits": [{"count": "concurrency", "limit": 1, "pools": ["x"]}]},
            "limits[0].pools[0]",
            "one of chat",
        ),
        (
            {"name": "a", "limits": [{"count": "cost", "limit": 1, "period": "day"}]},
            "limits[0].count",
            "prices in pricing.models",
        ),
        (
            {"name": "a", "limits": [{"count": "concurrency", "limit": 1}] * 2},
            "limits[1].name",
            "a name that no other limit here has",
        ),
        ({"name": "a", "keys": [{"id": "k", "sha256": HASH}]}, "keys", "made one by one"),
        ({"name": "a", "weight": 1.5}, "weight", "a whole number"),
        ({"name": "a", "plan": "\x7f\u2028\ufeff\U0001f600"}, "plan", "lower-case"),
        ({"name": "a", "plan": "\ud800"}, "", "JSON"),
        (
            {"name": "a", "limits": [{"count": "concurrency", "limit": float("nan")}]},
            "limits[0].limit",
            "a number",
        ),
    ],
)
def test_what_the_admin_api_refuses(
    tmp_path: Path, document: dict[str, object], key: str, says: str
) -> None:
    config = loaded(tmp_path, POOLS + "plans: [{name: gold}]")
    with pytest.raises(ConfigError) as refused:
        tenant_from(document, config)
    (problem,) = refused.value.problems
    assert problem.key == key
    assert says in str(problem)
    assert problem.line == 0


def test_rules_of_keys_made_at_run_time(tmp_path: Path) -> None:
    config = loaded(tmp_path, POOLS)
    rules = key_rules_from(["llama-*"], [{"count": "concurrency", "limit": 3}], config)
    assert rules.models == ("llama-*",)
    assert rules.limits[0].limit == 3
    with pytest.raises(ConfigError) as refused:
        key_rules_from([""], [{"count": "concurrency", "limit": 3, "pools": ["x"]}], config)
    assert [problem.key for problem in refused.value.problems] == ["models[0]"]


def test_a_tenant_that_the_configuration_left_behind(tmp_path: Path) -> None:
    tenant = Tenant(name="a", plan="gold")
    assert stale(tenant, loaded(tmp_path, "plans: [{name: gold}]")) == []
    (line,) = stale(tenant, loaded(tmp_path, "plans: [{name: free}]"))
    assert line == "plan: expected the name of a plan: one of free"


def test_a_hash_is_told_in_either_case() -> None:
    assert TenantKey(id="k", sha256=HASH.upper()).digest == bytes.fromhex(HASH)
