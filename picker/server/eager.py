"""Runs a coroutine at once, and makes a task of it only when it waits.

Most requests are decided without waiting for anything. A task for each of their messages would cost
1.2 us and another turn of the event loop.
"""

from __future__ import annotations

import asyncio
from asyncio import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import TypeAlias

Waits: TypeAlias = asyncio.Future[object] | None
"""What a coroutine gives its task: None is another turn of the loop."""
Work: TypeAlias = Coroutine[Waits, None, None]


class Eager:
    """Has a task in reserve, which is the current one of a coroutine from its first step: what
    asks for the current task, as `asyncio.timeout` does, gets the one that goes on with it."""

    def __init__(self) -> None:
        self._spare: _Carrier | None = None

    def start(self, work: Work) -> asyncio.Task[None] | None:
        """Run it up to where it waits; the task that goes on from there. None: it has ended.
        Raises what it raises until then."""
        loop = asyncio.get_running_loop()
        spare = self._spare
        if spare is None:
            spare = self._spare = _Carrier(loop)
        outer = asyncio.current_task(loop)
        if outer is not None:
            _leave_task(loop, outer)
        _enter_task(loop, spare.task)
        try:
            waits_for = work.send(None)
        except StopIteration:
            return None
        finally:
            _leave_task(loop, spare.task)
            if outer is not None:
                _enter_task(loop, outer)
        self._spare = None
        spare.carry(work, waits_for)
        return spare.task

    async def close(self) -> None:
        """Let the task in reserve go."""
        if self._spare is not None:
            self._spare.task.cancel()
            await asyncio.wait({self._spare.task})
            self._spare = None


class _Carrier(Coroutine[Waits, None, None]):
    """What the task in reserve runs: nothing, and then the rest of the work that it is given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._given = loop.create_future()
        self._idle: Generator[Waits, None, None] = self._given.__await__()
        self._work: Work | None = None
        self._first: list[Waits] = []
        self.task: asyncio.Task[None] = loop.create_task(self)

    def carry(self, work: Work, waits_for: Waits) -> None:
        """Go on with work that waits for this."""
        self._work = work
        self._first.append(waits_for)
        self._given.set_result(None)

    def send(self, _: None) -> Waits:
        if self._work is None:
            return next(self._idle)
        return self._first.pop() if self._first else self._work.send(None)

    def throw(
        self,
        error: type[BaseException] | BaseException,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
        /,
    ) -> Waits:
        raised = error if isinstance(error, BaseException) else error()
        if self._work is None:
            raise raised
        if self._first:  # cancelled before the task has seen what its work waits for
            first = self._first.pop()
            if first is not None and first.cancel():
                return first  # which ends the wait, as it does in any task
        return self._work.throw(raised)

    def close(self) -> None:
        if self._work is not None:
            self._work.close()

    def __await__(self) -> Generator[Waits, None, None]:
        raise TypeError("its task runs it")
