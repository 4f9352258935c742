"""From the configuration to what each part is told: picker, scraper, Envoy."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from pathlib import Path

from gateway.config.config import Config
from gateway.config.schema.pools import Pool
from gateway.config.schema.scheduling import Policy, Profile
from gateway.config.schema.secret import Secret
from gateway.config.schema.terms import is_ip
from gateway.config.schema.tls import UpstreamTls
from gateway.envoy.jwt import JwtProvider
from gateway.envoy.plan import EnvoyPlan, PoolCluster
from gateway.envoy.tls import ClusterTls, ListenerTls
from gateway.tokenizers import FileTokenizer
from picker.prompt.counting import Tokenizer
from picker.settings import OutputBound, PickerSettings, PoolSettings, RewriteRule, RewriteTarget
from picker.signals.engines import Engine
from picker.signals.fetch import Upstream
from picker.signals.scraper import ScrapedPool, ScrapeSettings
from policies.routing.spec import PolicySpec


def picker_settings(config: Config) -> PickerSettings:
    """What the picker decides by."""
    pools = tuple(
        PoolSettings(
            name=pool.name,
            policy=policy_spec(config.profile_of(pool)),
            models=pool.models,
            default=pool.default,
            fallbacks=config.scheduling.fallbacks,
        )
        for pool in config.pools
    )
    rewrites = tuple(
        RewriteRule(
            rule.name,
            tuple(RewriteTarget(t.model, float(t.weight), t.pool) for t in rule.targets),
        )
        for rule in config.models
    )
    quantile = config.limits.output_quantile
    return PickerSettings(
        pools=pools,
        rewrites=rewrites,
        max_body_bytes=config.listen.max_body_bytes,
        lease_s=config.picker.lease_s,
        stale_after_s=config.picker.scrape.stale_after_s,
        output_bound=OutputBound(
            share=quantile.share,
            min_tokens=quantile.min,
            max_tokens=quantile.max,
            prior_tokens=quantile.prior,
        ),
    )


def tokenizers(config: Config) -> list[tuple[str, Tokenizer]]:
    """The models' tokenizers by pattern of the models' names. Raises TokenizerError."""
    return [(one.model, FileTokenizer(one.file)) for one in config.limits.tokenizers]


def policy_spec(profile: Profile) -> PolicySpec:
    """The policy that a profile describes."""
    if profile.policy is not None:
        return PolicySpec(profile.policy.name, profile.policy.params)
    params: dict[str, object] = {
        "filters": [_part(policy) for policy in profile.filters],
        "scorers": [{**_part(scorer), "weight": scorer.weight} for scorer in profile.scorers],
    }
    if profile.picker is not None:
        params["picker"] = _part(profile.picker)
    return PolicySpec("weighted", params)


def scrape_settings(config: Config) -> ScrapeSettings:
    """How replicas are read."""
    scrape = config.picker.scrape
    return ScrapeSettings(
        interval_s=scrape.interval_s,
        idle_interval_s=scrape.idle_interval_s,
        timeout_s=scrape.timeout_s,
    )


def scraped_pool(pool: Pool) -> ScrapedPool:
    """How a pool's replicas are read; raises ValueError for certificates that cannot be used."""
    engine = None if pool.engine == "auto" else Engine(pool.engine)
    if pool.upstream_tls is None:
        return ScrapedPool(pool.name, engine)
    return ScrapedPool(pool.name, engine, _upstream(pool.upstream_tls))


@cache
def _upstream(tls: UpstreamTls) -> Upstream:
    """Cached, so that the same settings give the same context and nothing is read anew."""
    context = ssl.create_default_context(cadata=tls.ca.reveal() if tls.ca is not None else None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return Upstream(context, tls.server_name)


def known_endpoints(config: Config) -> dict[str, list[str]]:
    """Addresses by pool that stand in the configuration itself."""
    return {
        pool.name: [
            endpoint
            for endpoint in pool.known_endpoints
            if is_ip(endpoint.rpartition(":")[0].strip("[]"))
        ]
        for pool in config.pools
    }


def _part(policy: Policy) -> dict[str, object]:
    return {"name": policy.name, "params": dict(policy.params)}


def envoy_plan(
    config: Config,
    run_dir: Path,
    picker_sockets: tuple[Path, ...],
    *,
    secret: Callable[[Secret], str] = Secret.reveal,
) -> EnvoyPlan:
    """Everything Envoy's configuration depends on; writes secrets' files nowhere.

    ``secret``: what stands in the place of each secret, such as `instead_of` for people to read.
    """
    default = next((pool.name for pool in config.pools if pool.default), None)
    if default is None and config.pools:
        default = config.pools[0].name
    return EnvoyPlan(
        run_dir=run_dir,
        address=config.listen.address,
        port=config.listen.port,
        max_body_bytes=config.listen.max_body_bytes,
        stream_idle_timeout_s=config.listen.stream_idle_timeout_s,
        decision_timeout_s=config.picker.decision_timeout_s,
        fail_open=config.picker.failure_mode == "open",
        fallbacks=config.scheduling.fallbacks,
        picker_sockets=picker_sockets,
        pools=tuple(_cluster(pool, secret) for pool in config.pools),
        default_pool=default,
        tls=_listener_tls(config, secret),
        jwt=_jwt(config),
    )


def instead_of(secret: Secret) -> str:
    """Where a secret is from, to show in its place."""
    return f"<from {secret.reference}>"


def _listener_tls(config: Config, secret: Callable[[Secret], str]) -> ListenerTls | None:
    tls = config.listen.tls
    if tls is None:
        return None
    return ListenerTls(certificate=secret(tls.certificate), key=secret(tls.key))


def _jwt(config: Config) -> JwtProvider | None:
    """The keys are public: they are shown as they are."""
    tokens = config.identity.jwt if config.identity is not None else None
    if tokens is None:
        return None
    return JwtProvider(
        issuer=tokens.issuer,
        audiences=tokens.audiences,
        jwks=tokens.jwks.reveal() if tokens.jwks is not None else None,
        jwks_uri=tokens.jwks_uri,
        forward=tokens.forward,
    )


def _cluster(pool: Pool, secret: Callable[[Secret], str]) -> PoolCluster:
    tls = pool.upstream_tls
    if tls is None:
        return PoolCluster(pool.name)
    envoy_tls = ClusterTls(
        ca=secret(tls.ca) if tls.ca is not None else None,
        server_name=tls.server_name,
        verify=tls.verify,
    )
    return PoolCluster(pool.name, tls=envoy_tls)
