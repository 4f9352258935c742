"""``penstock up``: starts everything with a progress display, then shows what runs."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway.admin.serve import AdminServer
from gateway.children.child import Child, ChildError, ChildState
from gateway.commands.api import LOCAL
from gateway.config.config import Config
from gateway.config.schema.terms import join_endpoint
from gateway.config.sources.file import ConfigFile
from gateway.pools.provider import ReplicaRecord, ReplicaState
from gateway.run.compose import provider_of
from gateway.run.listening import require_free
from gateway.run.rundir import RunDir
from gateway.run.status import SupervisorStatus, SupervisorTenants, admin_token
from gateway.run.supervisor import StartError, Supervisor
from gateway.telemetry import logs

_POLL_S: Final = 0.15
_MARKS: Final = {True: "[green]●[/]", False: "[yellow]○[/]"}


async def up(path: Path, config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError and RunDirError when it cannot start."""
    console = Console()
    logs.set_up(config.telemetry.log_level, role="supervisor")
    require_free(config)
    run = RunDir.create(config.run_dir)
    make = partial(provider_of, log_dir=run.logs)
    supervisor = Supervisor(path, config, ConfigFile(path, config), run, make)
    admin = AdminServer(
        SupervisorStatus(supervisor),
        SupervisorTenants(supervisor),
        lambda: admin_token(supervisor.config),
        run.metrics,
    )
    started_s = time.monotonic()
    try:
        async with _progress(console, supervisor):
            await admin.start(config.admin, config.picker.metrics)
            await supervisor.start()
            await supervisor.settle()
        if not supervisor.stopping:
            console.print(_parts(supervisor))
            console.print(_first_steps(supervisor, time.monotonic() - started_s), soft_wrap=True)
            await supervisor.serve()
        drain_s = supervisor.config.listen.drain_timeout_s
        console.print(f"Stopping; running requests have {drain_s:g} s to finish.")
    except ChildError as error:
        raise StartError(str(error)) from error
    finally:
        await supervisor.stop()
        await admin.stop()
        run.remove()


@contextlib.asynccontextmanager
async def _progress(console: Console, supervisor: Supervisor) -> AsyncIterator[None]:
    """Show the parts as they come up; on a pipe, one line."""
    if not console.is_terminal:
        console.print("penstock: starting")
        yield
        return
    with Live(_parts(supervisor), console=console, transient=True, auto_refresh=False) as live:

        async def follow() -> None:
            while True:
                live.update(_parts(supervisor), refresh=True)
                await asyncio.sleep(_POLL_S)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()


def _parts(supervisor: Supervisor) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "part", "state", "address", "pid"):
        table.add_column(column)
    config = supervisor.config
    if config.envoy.enabled:
        where = f"{config.listen.address}:{config.listen.port}"
        _child_row(table, "envoy", supervisor.envoy.child if supervisor.envoy else None, where)
    for child in supervisor.pickers.children:
        _child_row(table, child.spec.name, child, "")
    for pool, replicas in supervisor.fleet.replicas().items():
        for replica in replicas:
            _replica_row(table, pool, replica)
    admin = f"{config.admin.address}:{config.admin.port}"
    table.add_row(_MARKS[True], "admin", "ready", admin, "")
    return table


def _child_row(table: Table, name: str, child: Child | None, address: str) -> None:
    state = child.state if child is not None else ChildState.IDLE
    waiting = "waiting" if state is ChildState.IDLE else state.value
    pid = str(child.pid) if child is not None and child.pid is not None else ""
    table.add_row(_MARKS[state is ChildState.READY], name, waiting, address, pid)


def _replica_row(table: Table, pool: str, replica: ReplicaRecord) -> None:
    up = replica.state in (ReplicaState.READY, ReplicaState.ACTIVE)
    table.add_row(
        _MARKS[up],
        f"pool {pool}: {replica.name}",
        replica.state.value,
        replica.address or "",
        str(replica.pid or ""),
    )


def _first_steps(supervisor: Supervisor, took_s: float) -> str:
    config = supervisor.config
    lines = [f"\nReady in {took_s:.1f} s. Status and metrics: {_admin_url(config)}/"]
    if config.envoy.enabled:
        scheme = "https" if config.listen.tls is not None else "http"
        base = f"{scheme}://{_reachable(config.listen.address, config.listen.port)}"
        models = (pool.example_model for pool in config.pools)
        model = next((model for model in models if model is not None), "MODEL")
        body = (
            f'{{"model": "{model}", "max_tokens": 16,'
            ' "messages": [{"role": "user", "content": "Hello"}]}'
        )
        lines.append("Try:")
        needs_key = config.has_tenants and config.identity_in_force.anonymous is None
        if needs_key and config.identity_in_force.api_keys:
            lines += first_key(config)
        lines.append(f"  curl {base}/v1/chat/completions \\")
        if needs_key:
            lines.append('    -H "authorization: Bearer $KEY" \\')
        lines += ["    -H 'content-type: application/json' \\", f"    -d '{body}'"]
    return "\n".join(lines) + "\n"


def first_key(config: Config) -> list[str]:
    """Commands that make a key, and a tenant for it when there is none."""
    admin, before, after = config.admin, "", ""
    if (url := _admin_url(config)) != LOCAL:
        after += f" --url {url}"
    if admin.token is not None and admin.token.file is not None:
        after += f" --token-file {admin.token.file}"
    elif admin.token is not None:
        before = f'PENSTOCK_ADMIN_TOKEN="${admin.token.env}" '
    lines = []
    if not config.tenants:
        lines.append(f"  {before}penstock tenants create demo{after}")
    tenant = config.tenants[0].name if config.tenants else "demo"
    lines.append(f"  KEY=$({before}penstock keys create {tenant} --quiet{after})")
    return lines


def _admin_url(config: Config) -> str:
    return f"http://{_reachable(config.admin.address, config.admin.port)}"


def _reachable(address: str, port: int) -> str:
    """The address at which a client on this machine reaches a listener."""
    listening = ipaddress.ip_address(address)
    if listening.is_unspecified:
        address = "127.0.0.1" if listening.version == 4 else "::1"
    return join_endpoint(address, port)
