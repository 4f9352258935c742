"""Where heavy work on a body is done: apart from the event loop."""

from __future__ import annotations

import contextlib
import logging
import pickle
import subprocess
import sys
from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LENGTH_BYTES: Final = 8
_PIPE_BYTES: Final = 1 << 20


class BodyLost(Exception):  # noqa: N818 - a state of the world
    """The process that worked on the body has died of it."""


class Apart(Protocol):
    """Runs a function on a body."""

    async def run(
        self,
        work: Callable[Concatenate[bytes, P], T],
        body: bytes,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """The result of ``work``, a function of a module. Raises BodyLost; what ``work`` itself
        raises is a fault of the program."""
        ...


class Here:
    """In place: for a picker that serves nobody else meanwhile, such as a simulated one."""

    async def run(
        self,
        work: Callable[Concatenate[bytes, P], T],
        body: bytes,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """See `Apart`."""
        return work(body, *args, **kwargs)


class BodyProcess:
    """In a process of its own: parsing JSON keeps Python's lock, so a thread would not help. The
    process is started by the first body that needs it, and takes one body after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def run(
        self,
        work: Callable[Concatenate[bytes, P], T],
        body: bytes,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """See `Apart`."""
        if self._closed:
            raise BodyLost
        loop = get_running_loop()
        call = (work, args, kwargs)
        reply = await loop.run_in_executor(self._thread, self._ask, call, body)
        return cast("T", reply)

    def close(self) -> None:
        """End the process. What is under way in it raises BodyLost."""
        self._closed = True
        if self._child is not None:
            self._child.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._discard()

    def _ask(self, call: object, body: bytes) -> object:
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            send(child.stdin, pickle.dumps(call))
            send(child.stdin, body)
            good, result = pickle.loads(receive(child.stdout))  # noqa: S301 - of our own child
        except (OSError, EOFError) as error:
            log.warning("the process that read a body of %d bytes has died", len(body))
            self._discard()
            raise BodyLost from error
        if not good:
            raise RuntimeError(result)
        return result

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:  # died meanwhile
            self._discard()
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "picker.bodies.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pipesize=_PIPE_BYTES,
            )
        return self._child

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.wait()


def send(pipe: IO[bytes], data: bytes) -> None:
    """One message, with its length ahead. Raises OSError."""
    pipe.write(len(data).to_bytes(LENGTH_BYTES, "little"))
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> bytes:
    """The next message. Raises EOFError at the end, OSError."""
    length = int.from_bytes(_exactly(pipe, LENGTH_BYTES), "little")
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data
