"""``penstock up``: starts everything with a progress display, then shows what runs."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway.admin.api import AdminServer
from gateway.admin.status import ReplicaStatus
from gateway.children.child import Child, ChildError, ChildState
from gateway.config.config import Config
from gateway.config.schema.fault import key_path
from gateway.config.sources.file import ConfigFile
from gateway.pools.ports import try_port
from gateway.run.announce import Announcement
from gateway.run.compose import provider_of
from gateway.run.rundir import RunDir
from gateway.run.status import SupervisorStatus, admin_token
from gateway.run.supervisor import StartError, Supervisor
from gateway.telemetry import logs

_POLL_S: Final = 0.15
_MARKS: Final = {True: "[green]●[/]", False: "[yellow]○[/]"}


async def up(path: Path, config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError and RunDirError when it cannot start."""
    append_to(sys.stdout.fileno())
    console = Console()
    logs.set_up(config.telemetry.log_level, role="supervisor")
    _require_free_ports(config)
    run = RunDir.create(config.run_dir)
    make = partial(provider_of, log_dir=run.logs)
    supervisor = Supervisor(path, config, ConfigFile(path, config), run, make)
    shown = SupervisorStatus(supervisor)
    admin = AdminServer(
        shown,
        shown,
        lambda: admin_token(supervisor.config),
        run.metrics,
        supervisor.batches.records,
    )
    news = Announcement(
        shown.status,
        lambda: supervisor.config,
        lambda text: console.print(text, soft_wrap=True, markup=False, highlight=False),
    )
    try:
        async with _progress(console, supervisor, shown):
            await admin.start(config.admin, config.picker.metrics)
            await supervisor.start()
            await supervisor.settle()
            await news.first_look()
        if not supervisor.stopping:
            console.print(_parts(supervisor, shown))
            announcing = asyncio.create_task(news.follow())
            try:
                await supervisor.serve()
            finally:
                announcing.cancel()
        listen = supervisor.config.listen
        if listen.shutdown_delay_s:
            console.print(f"Stopping; new requests are served for {listen.shutdown_delay_s:g} s.")
        console.print(f"Stopping; running requests have {listen.drain_timeout_s:g} s to finish.")
    except ChildError as error:
        raise StartError(str(error)) from error
    finally:
        await supervisor.stop()
        await admin.stop()
        run.remove()


def append_to(file: int) -> None:
    """What is written to a file goes to its end from now on: pickers write the request log there,
    and each writer would overwrite what others have written since its own last line."""
    if stat.S_ISREG(os.fstat(file).st_mode):
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)


def _require_free_ports(config: Config) -> None:
    """Raise StartError when a port is taken. To be called before anything is started, because the
    parts' own messages name neither the key nor a remedy."""
    for at, address, port in config.listeners():
        try:
            try_port(address, port)
        except OSError as error:
            raise StartError(
                f"cannot listen on {address}:{port} ({error.strerror}): end what listens there, or"
                f" set {key_path(at)}.port to a free one"
            ) from error


@contextlib.asynccontextmanager
async def _progress(
    console: Console, supervisor: Supervisor, shown: SupervisorStatus
) -> AsyncIterator[None]:
    """Show the parts as they come up; on a pipe, one line."""
    if not console.is_terminal:
        console.print("penstock: starting")
        yield
        return
    with Live(
        _parts(supervisor, shown), console=console, transient=True, auto_refresh=False
    ) as live:

        async def follow() -> None:
            while True:
                live.update(_parts(supervisor, shown), refresh=True)
                await asyncio.sleep(_POLL_S)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()


def _parts(supervisor: Supervisor, shown: SupervisorStatus) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "part", "state", "address", "pid"):
        table.add_column(column)
    config = supervisor.config
    if config.envoy.enabled:
        where = f"{config.listen.address}:{config.listen.port}"
        _child_row(table, "envoy", supervisor.envoy.child if supervisor.envoy else None, where)
    for child in supervisor.pickers.children:
        _child_row(table, child.spec.name, child, "")
    for pool in shown.status().pools:
        serving = {one.address for one in pool.endpoints if one.healthy}
        for replica in pool.replicas:
            _replica_row(table, pool.name, replica, serves=replica.address in serving)
    admin = f"{config.admin.address}:{config.admin.port}"
    table.add_row(_MARKS[True], "admin", "ready", admin, "")
    return table


def _child_row(table: Table, name: str, child: Child | None, address: str) -> None:
    state = child.state if child is not None else ChildState.IDLE
    waiting = "waiting" if state is ChildState.IDLE else state.value
    pid = str(child.pid) if child is not None and child.pid is not None else ""
    table.add_row(_MARKS[state is ChildState.READY], name, waiting, address, pid)


def _replica_row(table: Table, pool: str, replica: ReplicaStatus, *, serves: bool) -> None:
    table.add_row(
        _MARKS[serves],
        f"pool {pool}: {replica.name}",
        "serves" if serves else replica.state,
        replica.address,
        str(replica.pid or ""),
    )
