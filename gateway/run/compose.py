"""The composition root: it chooses concrete parts by the configuration, and puts them together."""

from __future__ import annotations

import contextlib
import random
import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from gateway.config.config import Config
from gateway.config.schema.pools import ProcessPool, SimulatedPool, StaticPool
from gateway.config.schema.redis import RedisChoice, RedisSection
from gateway.limits.limiter import LimitObserver
from gateway.limits.memory.journal import Journal
from gateway.limits.memory.store import MemoryStore
from gateway.limits.outage.fallback import FallbackStore
from gateway.limits.outage.local import LocalLimits
from gateway.limits.outage_counters import OutageCounters
from gateway.pools.provider import OnChange, PoolConfig, Provider
from gateway.pools.providers.process import ReplicaProcesses, process_plan
from gateway.pools.providers.simulated import simulated_plan
from gateway.pools.providers.static import StaticEndpoints
from gateway.run.rundir import RunDir
from gateway.telemetry.worker import WorkerTelemetry
from gateway.tenancy.batch_lines import BatchLines
from gateway.tenancy.directory import Directory
from gateway.tenancy.picker import PickerTenancy
from gateway.tenancy.registry import Registry
from gateway.tenancy.sqlite_registry import SqliteRegistry
from gateway.tenancy.supervisor import SupervisorTenancy
from gateway.tenancy.worker import WorkerTenancy
from gateway.tokenizers.own import OwnTokenizers
from picker.bodies.apart import BodyProcess
from picker.core import Parts, Picker
from picker.prompt.counting import Counting
from picker.replication.local import LocalPeers
from picker.server.health import Health
from picker.signals.kv_events import KvEvents
from picker.signals.scraper import Scraper
from picker.signals.token_ids import EngineTokenIds
from picker.signals.tokenize import EngineTokenizer
from picker.signals.tokenize_path import TokenizePath
from picker.state.background import BackgroundThread
from policies.limits.plan import OnStoreFailure

if TYPE_CHECKING:
    from gateway.limits.redis.client import Client

# redis-py is slow to import: what needs it is imported where a configuration has it.

_REGISTRY_TIMEOUT_S: Final = 2.0


def provider_of(
    config: PoolConfig, on_change: OnChange, *, log_dir: Path | None = None
) -> Provider:
    """A `MakeProvider`. ``log_dir``: folder for the logs of replicas that are our processes."""
    match config:
        case StaticPool():
            return StaticEndpoints(config, on_change=on_change)
        case ProcessPool():
            return ReplicaProcesses(config, process_plan, on_change=on_change, log_dir=log_dir)
        case SimulatedPool():
            return ReplicaProcesses(config, simulated_plan, on_change=on_change, log_dir=log_dir)
    assert_never(config)


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """A picker worker, built and not started yet."""

    name: str
    telemetry: WorkerTelemetry
    tenancy: WorkerTenancy
    """Gate and limiter of the picker."""
    peers: LocalPeers
    scraper: Scraper
    counting: Counting
    tokenize_path: TokenizePath
    engine_counts: EngineTokenizer
    own_tokens: OwnTokenizers
    engine_tokens: EngineTokenIds
    kv_events: KvEvents
    bodies: BodyProcess
    picker: Picker
    health: Health


def worker_parts(run: RunDir, index: int) -> WorkerParts:
    """Everything that lives as long as the worker."""
    name, picker_id = f"picker-{index}", f"{index}.{secrets.token_hex(4)}"
    telemetry = WorkerTelemetry(name, lambda model: picker.catalog.is_known(model))
    tenancy = WorkerTenancy(
        lambda config: picker_tenancy(config, telemetry.tenants),
        run.accounts_socket(index),
        BatchLines(run.batch_key()),
    )
    peers = LocalPeers(picker_id, own=run.peer_socket(index))
    scraper = Scraper(sharing=peers.readings)
    counting, bodies, path = Counting(), BodyProcess(), TokenizePath()
    engine_counts, engine_tokens = EngineTokenizer(path), EngineTokenIds(path)
    own_tokens = OwnTokenizers(bodies, time.monotonic)
    picker = Picker(
        picker_id,
        Parts(
            observer=telemetry.observer,
            gate=tenancy,
            limiter=tenancy,
            peers=peers,
            watch=scraper,
            counting=counting,
            engine_counts=engine_counts,
            own_tokens=own_tokens,
            engine_tokens=engine_tokens,
            apart=bodies,
            background=BackgroundThread(),
        ),
        now=time.monotonic,
        rng=random.Random(),  # noqa: S311 - ties and weights, nothing secret
    )
    return WorkerParts(
        *(name, telemetry, tenancy, peers, scraper, counting, path, engine_counts),
        *(own_tokens, engine_tokens, KvEvents(), bodies, picker, Health(picker)),
    )


def picker_tenancy(config: Config, observer: LimitObserver) -> PickerTenancy:
    """For a configuration with tenants. Raises OSError or sqlite3.Error when the state's file
    cannot be opened."""
    directory = Directory(config)
    store, outage = limit_store(config, directory)
    return PickerTenancy(
        directory,
        registry(config),
        buckets=store,
        usage=store,
        observer=observer,
        outage=outage,
    )


def supervisor_tenancy(config: Config, written: Callable[[], Awaitable[None]]) -> SupervisorTenancy:
    """For the supervisor. ``written``: see `SupervisorTenancy`."""
    return SupervisorTenancy(Directory(config), registry(config), written)


def registry(config: Config) -> Registry:
    """The registry of tenants and keys: in Redis, or in the state's file."""
    redis = _redis(config)
    if redis is None:
        return SqliteRegistry(config.state_file)
    from gateway.tenancy.redis_registry import RedisRegistry

    client = _client(redis, _REGISTRY_TIMEOUT_S)
    return RedisRegistry(client, timeout_s=_REGISTRY_TIMEOUT_S, prefix=redis.prefix)


def limit_store(
    config: Config, directory: Directory
) -> tuple[MemoryStore | FallbackStore, OutageCounters | None]:
    """The store of limits and usage: in Redis, or in this process and the state's file. Raises
    OSError or sqlite3.Error when the file cannot be opened."""
    settings, redis = config.limits, _redis(config)
    if redis is None:
        journal = Journal(
            config.state_file,
            usage_days=settings.usage_days,
            max_users_per_day=settings.max_users_per_day,
        )
        return MemoryStore(journal=journal), None
    from gateway.limits.redis.store import RedisStore

    timeout_s = redis.timeout_ms / 1_000
    store = RedisStore(
        _client(redis, timeout_s),
        timeout_s=timeout_s,
        usage_days=settings.usage_days,
        max_users_per_day=settings.max_users_per_day,
        prefix=redis.prefix,
        lost=lambda: fallback.lost(),
    )
    local = LocalLimits(
        MemoryStore(),
        mode_of=lambda tenant: _on_failure(directory, tenant),
        share=lambda: _share(directory.config),
    )
    fallback = FallbackStore(store, patient=store.patient(), local=local)
    return fallback, fallback.counters


def require_state(config: Config) -> None:
    """Make sure that the state's file can be used, if one is needed. Raises OSError or
    sqlite3.Error."""
    if not config.has_tenants or _redis(config) is not None:
        return
    file = config.state_file
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("SELECT count(*) FROM sqlite_master")


def _redis(config: Config) -> RedisSection | None:
    chosen = config.limits.store
    return chosen.redis if isinstance(chosen, RedisChoice) else None


def _client(redis: RedisSection, timeout_s: float) -> Client:
    from gateway.limits.redis.client import connect, connect_cluster

    make = connect_cluster if redis.cluster else connect
    return make(redis.address, timeout_s=timeout_s)


def _on_failure(directory: Directory, tenant: str) -> OnStoreFailure:
    policy = directory.policy_named(tenant)
    return OnStoreFailure.OPEN if policy is None else policy.on_store_failure


def _share(config: Config) -> Fraction:
    """Of every limit, for each picker while Redis is down."""
    redis = _redis(config)
    pickers = redis.share if redis is not None and redis.share else config.picker.workers
    return Fraction(1, pickers)
