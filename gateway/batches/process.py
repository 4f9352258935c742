"""The process of the batch lane: started by the supervisor, never by hand."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from gateway.batches.api import LaneApi
from gateway.batches.dispatcher import Dispatcher
from gateway.batches.folder import Folder
from gateway.batches.sender import Sender
from gateway.batches.settings import LaneSettings
from gateway.batches.sqlite_store import SqliteStore

log = logging.getLogger(__name__)

_LAST_REQUESTS_S: Final = 2.0


class Lane:
    """Serves the API, and works on batches."""

    def __init__(self, file: Path, listener: socket.socket) -> None:
        """``file``: of the settings; read again at SIGHUP. ``listener``: where Envoy connects."""
        self._file, self._listener = file, listener
        self._settings = LaneSettings.from_bytes(file.read_bytes())
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM; then send nothing more and let end what is under way."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        folder = Folder(self._settings.folder)
        try:
            folder.prepare()
        except OSError as error:  # the API answers 503 until it is mended
            log.error("%s cannot be used: %s", folder.path, error)  # noqa: TRY400 - no stack
        store, sender = SqliteStore(folder.database), Sender(self._settings)
        dispatcher = Dispatcher(store, folder, sender, self._settings)
        loop.add_signal_handler(signal.SIGHUP, self._reload, dispatcher)
        api = LaneApi(store, folder, lambda: self._settings, dispatcher.wake)
        runner = web.AppRunner(api.application(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, self._listener, shutdown_timeout=_LAST_REQUESTS_S).start()
        working = asyncio.create_task(dispatcher.run())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # raises what ended it
            await dispatcher.finish(self._settings.drain_s)
        finally:
            working.cancel()
            stopped.cancel()
            await asyncio.gather(working, stopped, return_exceptions=True)
            await runner.cleanup()
            await sender.close()
            await store.close()

    def _reload(self, dispatcher: Dispatcher) -> None:
        self._settings = LaneSettings.from_bytes(self._file.read_bytes())
        dispatcher.configure(self._settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m gateway.batches.process``."""
    parser = argparse.ArgumentParser(description="The batch lane of Penstock.")
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    listener = socket.socket(fileno=given.listener)
    listener.setblocking(False)
    uvloop.run(Lane(given.settings, listener).run())


if __name__ == "__main__":
    main()
