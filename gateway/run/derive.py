"""From the configuration to the settings of the picker and of the scraper."""

from __future__ import annotations

import os
import ssl
from functools import cache
from math import inf
from pathlib import Path

from gateway.batches.settings import LaneSettings
from gateway.config.config import Config
from gateway.config.schema.pools import Pool
from gateway.config.schema.scheduling import Breaker, Policy, Profile
from gateway.config.schema.tls import UpstreamTls
from gateway.tokenizers.load import tokenizer_of
from picker.caps import Caps
from picker.prompt.counting import Tokenizer
from picker.settings import (
    FlowSettings,
    ForeignWait,
    Objective,
    OutputBound,
    PickerSettings,
    PoolSettings,
    RewriteRule,
    RewriteTarget,
)
from picker.signals.engines import Engine
from picker.signals.fetch import Upstream
from picker.signals.kv_events import KvSettings
from picker.signals.settings import ScrapedPool, ScrapeSettings
from policies.flow.rules import Bounds, FlowRules
from policies.health.breaker import BreakerRules
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
            set_headers=pool.upstream_headers,
            engine=pool.engine,
            weight=pool.weight,
            queue=pool.queue,
            shadow=None
            if pool.shadow is None
            else policy_spec(config.scheduling.profiles[pool.shadow]),
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
        passthrough=config.passthrough,
        handed_over=config.handed_over,
        shows_decisions=config.scheduling.decision_headers,
        foreign_fallbacks=config.picker.ext_proc.fallbacks,
        foreign_wait=ForeignWait(
            config.picker.ext_proc.message_timeout_s, config.picker.ext_proc.max_message_timeout_s
        ),
        flow=flow_settings(config),
        decision_timeout_s=config.picker.decision_timeout_s,
        max_body_bytes=config.listen.max_body_bytes,
        caps=Caps(**config.listen.caps.model_dump()),
        lease_s=config.picker.lease_s,
        stale_after_s=config.picker.scrape.stale_after_s,
        breaker=breaker_rules(config.scheduling.breaker),
        output_bound=OutputBound(
            share=quantile.share,
            min_tokens=quantile.min,
            max_tokens=quantile.max,
            prior_tokens=quantile.prior,
        ),
    )


def lane_settings(config: Config, socket: Path, key: str) -> LaneSettings:
    """What the batch lane works by. ``socket``, ``key``: see `LaneSettings`."""
    batches = config.batches
    return LaneSettings(
        folder=config.batches_folder,
        socket=socket,
        key=key,
        max_file_bytes=batches.max_file_bytes,
        max_lines=batches.max_lines,
        max_line_bytes=batches.max_line_bytes,
        max_tenant_bytes=batches.max_tenant_bytes,
        max_tenant_batches=batches.max_tenant_batches,
        retention_s=batches.retention_s,
        concurrency=batches.concurrency,
        attempts=batches.attempts,
        cancel_grace_s=batches.cancel_grace_s,
        drain_s=config.listen.drain_timeout_s,
    )


def flow_settings(config: Config) -> FlowSettings:
    """How requests wait for their pools."""
    flow, most_s = config.flow, config.longest_wait_s
    ttl_s = min(most_s, flow.ttl_s)
    return FlowSettings(
        rules=FlowRules(
            max_requests=flow.max_requests,
            max_tokens=flow.max_tokens,
            aging_s=flow.aging_s,
            classes={
                one.priority: Bounds(
                    inf if one.max_requests is None else one.max_requests,
                    inf if one.max_tokens is None else one.max_tokens,
                )
                for one in flow.classes
            },
        ),
        ttl_s=ttl_s,
        sheddable_ttl_s=min(ttl_s, flow.sheddable_ttl_s),
        class_ttl_s={
            one.priority: min(most_s, one.ttl_s) for one in flow.classes if one.ttl_s is not None
        },
        objectives=tuple(
            Objective(one.name, one.priority, inf if one.ttft_s is None else one.ttft_s)
            for one in flow.objectives
        ),
        evict_for=flow.evict_for,
        trust_headers=flow.trust_headers,
    )


def breaker_rules(breaker: Breaker) -> BreakerRules | None:
    """When replicas that fail are left out; None: never."""
    if not breaker.enabled:
        return None
    return BreakerRules(
        consecutive_failures=breaker.consecutive_failures,
        failure_share=breaker.failure_share,
        min_requests=breaker.min_requests,
        window_s=breaker.window_s,
        open_s=breaker.open_s,
        max_open_s=breaker.max_open_s,
        probes=breaker.probes,
    )


def tokenizers(config: Config) -> list[tuple[str, Tokenizer]]:
    """The models' tokenizers by pattern of the models' names. Raises TokenizerError."""
    return [(one.model, tokenizer_of(one.file, one.encoding)) for one in config.limits.tokenizers]


def tokenizer_files(config: Config) -> list[tuple[str, Path]]:
    """Files of tokenizers by pattern of the models' names."""
    return [(one.model, one.file) for one in config.limits.tokenizers if one.file is not None]


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
    tls, headers = pool.upstream_tls, pool.upstream_headers
    if tls is None:
        return ScrapedPool(pool.name, engine, Upstream(headers=headers))
    return ScrapedPool(pool.name, engine, Upstream(_context(tls), tls.server_name, headers))


def kv_settings(pool: Pool) -> KvSettings | None:
    """Where a pool's replicas publish KV events; None: they are not listened to."""
    events = pool.kv_events
    if not events.enabled:
        return None
    return KvSettings(
        port=events.port,
        replay_port=events.replay_port,
        topic=events.topic,
        ranks=events.ranks,
        guessed="port" not in events.model_fields_set,
    )


def tokenizing_upstreams(config: Config) -> dict[str, Upstream]:
    """By pool: how replicas are reached that tell the tokens of prompts."""
    return {
        pool.name: scraped_pool(pool).upstream for pool in config.pools if pool.kv_events.enabled
    }


def counting_upstreams(config: Config) -> dict[str, Upstream]:
    """By pool: how replicas are reached that count prompts."""
    if not config.limits.count_by_engine:
        return {}
    return {pool.name: scraped_pool(pool).upstream for pool in config.pools}


@cache
def _context(tls: UpstreamTls) -> ssl.SSLContext:
    """Cached, so that the same settings give the same context and nothing is read anew."""
    context = ssl.create_default_context(cadata=tls.ca.reveal() if tls.ca is not None else None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate is not None and tls.key is not None:
        _show(context, tls.certificate.reveal(), tls.key.reveal())
    return context


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Make the context show a certificate. Python reads it from a file only: this one is in memory,
    so that the key is written nowhere."""
    with os.fdopen(os.memfd_create("penstock-certificate"), "w") as file:
        file.write(f"{certificate}\n{key}\n")
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def _part(policy: Policy) -> dict[str, object]:
    return {"name": policy.name, "params": dict(policy.params)}
