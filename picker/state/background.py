"""A thread for work that no request waits for."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

log = logging.getLogger(__name__)

_MAX_WAITING_BYTES: Final = 8 << 20
_MAX_WAITING: Final = 1024
"""What is done much later is of no use: no job counts as smaller than its part of the room."""
_LONG_S: Final = 0.001
"""Of CPU time: requests may have waited for a job that takes longer."""
_SWITCH_S: Final = 0.001
"""Python's threads take turns: so long may one of them hold up the event loop, instead of the 5 ms
that are usual."""


class BackgroundThread:
    """A `picker.seams.background.Background`. The thread begins with the first job, and does not
    keep the process alive. Jobs that compute for long get a quarter of a core between them."""

    def __init__(
        self,
        max_waiting_bytes: int = _MAX_WAITING_BYTES,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._max_waiting_bytes = max_waiting_bytes
        self._pause = pause
        self._jobs: SimpleQueue[tuple[Callable[[], None], int]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # Each is written by one thread alone.
        self._submitted_bytes = self._done_bytes = 0

    def submit(self, job: Callable[[], None], size_bytes: int = 0) -> bool:
        """See `Background`."""
        if size_bytes:
            size_bytes = max(size_bytes, self._max_waiting_bytes // _MAX_WAITING)
        waiting_bytes = self._submitted_bytes - self._done_bytes
        if size_bytes and waiting_bytes + size_bytes > max(self._max_waiting_bytes, size_bytes):
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
            sys.setswitchinterval(_SWITCH_S)
        self._submitted_bytes += size_bytes
        self._jobs.put((job, size_bytes))
        return True

    def _run(self) -> None:
        while True:
            job, size_bytes = self._jobs.get()
            began_s = time.thread_time()
            try:
                job()
            except BaseException:  # a plugin may even ask to exit
                log.exception("a job in the background failed")
            del job
            self._done_bytes += size_bytes
            took_s = time.thread_time() - began_s
            if took_s > _LONG_S:
                self._pause(3 * took_s)
