"""What a hundred thousand tenants cost: the picker's memory, and the time of its start."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson

from loadtests.bench import processes
from loadtests.bench.figures.limits import sections
from loadtests.bench.figures.measurement import Effort
from loadtests.bench.prompts import PromptShape, api_key
from loadtests.bench.rows import Row
from loadtests.bench.stand import Stand

_TENANTS: Final = 100_000
_CONNECTIONS: Final = 32
_SHORT: Final = PromptShape(100)
_WARM: Final = 1_000
_AT_ONCE: Final = 10_000
_MB: Final = 1e6
_LASTING: Final = tuple(
    {"count": count, "limit": 10**8, "period": "month", "window": "calendar"}
    for count in ("requests", "total_tokens", "output_tokens", "cost")
)
"""A full bucket is forgotten; these do not fill up during the measurement."""
_PUT: Final = """
INSERT INTO registry_entries (kind, id, version, content, sequence)
VALUES (?, ?, 1, ?, (SELECT coalesce(max(sequence), 0) + 1 FROM registry_entries))
"""


def memory(stand: Stand, effort: Effort) -> list[Row]:
    """Tenants of a plan with four limits, each with a key, created at run time. Memory before and
    after they are known, and after each has sent a request."""
    count = effort.of(_TENANTS, _TENANTS // 10)
    replicas = stand.replicas
    with tempfile.TemporaryDirectory(prefix="pst-tenants-") as folder:
        settings = {**sections(_LASTING), "state_dir": folder}
        effort.say("starting a gateway without them")
        with Stand(replicas, sections=settings, keys=1) as empty:
            before_mb, empty_s = _warm_mb(empty), empty.started_s
        effort.say(f"writing {count:,} of them")
        _register(Path(folder) / "penstock.db", count)
        effort.say(f"starting a gateway with {count:,} of them")
        with Stand(replicas, sections=settings, keys=count, start_s=effort.of(180, 60)) as full:
            known_mb, full_s = _warm_mb(full), full.started_s
            for start in range(0, count, _AT_ONCE):
                effort.say(f"a request of each tenant: {start:,} of {count:,}")
                keys = range(start, min(start + _AT_ONCE, count))
                full.load(_SHORT, connections=_CONNECTIONS, requests=len(keys), keys=keys)
            used_mb = _resident_mb(full)
    return [
        Row(
            f"memory of the picker for {count:,} tenants",
            known_mb - before_mb,
            "MB",
            f"each with an API key, of a plan, in the registry; resident {before_mb:.0f} MB before"
            f" and {known_mb:.0f} MB with them: {(known_mb - before_mb) * 1e3 / count:.1f} kB each",
        ),
        Row(
            f"memory of the picker for {count:,} tenants' 4 buckets each",
            used_mb - known_mb,
            "MB",
            f"in memory, after a request of each; resident {used_mb:.0f} MB:"
            f" {(used_mb - known_mb) * 1e3 / count:.1f} kB each",
        ),
        Row(
            f"start with {count:,} tenants",
            full_s,
            "s",
            f"to the first answer to the last key; {empty_s:.1f} s with one tenant",
        ),
    ]


def _register(file: Path, count: int) -> None:
    """Write tenants and keys as `penstock tenants create` and `penstock keys create` do, all at
    once. The first key is in the configuration."""
    with closing(sqlite3.connect(file)) as database, database:
        for number in range(1, count):
            tenant, key = f"tenant-{number}", f"key-{number}"
            digest = sha256(api_key(number).encode()).hexdigest()
            opened = {"line": key, "tenant": tenant, "sha256": digest, "created_s": 1.7e9}
            database.execute(
                _PUT, ("tenant", tenant, orjson.dumps({"name": tenant, "plan": "bench"}))
            )
            database.execute(_PUT, ("key", key, orjson.dumps(opened)))


def _warm_mb(stand: Stand) -> float:
    """Memory after some requests of one tenant."""
    stand.load(_SHORT, connections=_CONNECTIONS, requests=_WARM, keys=range(1))
    return _resident_mb(stand)


def _resident_mb(stand: Stand) -> float:
    return processes.memory(stand.pids["picker"]).rss_bytes / _MB
