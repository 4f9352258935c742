"""Script calls to a Redis Cluster, through redis-py, which knows which node has which hash slot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, cast

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError

from gateway.limits.buckets import StoreUnavailable
from gateway.limits.redis.client import in_time, unavailable
from gateway.limits.redis.line import Call, Reply, Word

_LOG: Final = logging.getLogger("penstock.limits")


class ClusterLine:
    """`ScriptLine` to a cluster. All calls of one turn of the loop go out as one batch to each
    node."""

    def __init__(
        self,
        client: RedisCluster,
        connect_timeout_s: float,
        *,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Finding the cluster and connecting to its nodes go on when the calls that wait for it are
        late. ``lost`` is called when a connection broke or could not be made."""
        self._client = client
        self._connect_timeout_s = connect_timeout_s
        self._lost = lost
        self._begun: list[Call] = []
        self._batches: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """See `ScriptLine.close`."""
        if self._begun:
            self._flush()
        if self._batches:
            await asyncio.wait(self._batches)

    def begin(self, call: Call) -> asyncio.Future[Reply]:
        """See `ScriptLine.begin`."""
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._flush)
        self._begun.append(call)
        return call.answer

    def _flush(self) -> None:
        batch, self._begun = self._begun, []
        if not batch:
            return
        task = asyncio.create_task(self._send(batch), name="limit store batch")
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _send(self, batch: Sequence[Call]) -> None:
        loop = asyncio.get_running_loop()
        last = {call.timeout_s: call for call in batch}  # of each timeout
        timers = [
            loop.call_at(call.deadline_s, _late, batch, timeout_s)
            for timeout_s, call in last.items()
        ]
        within_s = max(self._connect_timeout_s, *last)
        try:
            replies = await self._pipeline([call.words for call in batch], within_s)
            unknown = [
                call
                for call, reply in zip(batch, replies, strict=True)
                if isinstance(reply, NoScriptError) and not call.answer.done()
            ]
            if unknown:
                again = await self._pipeline([call.in_full() for call in unknown], within_s)
                _hand_over(unknown, again)
        except StoreUnavailable as error:
            for call in batch:
                call.fail(str(error), lost=error.lost)
            if error.lost:
                self._lost()
        except Exception as error:  # noqa: BLE001 - the callers get it
            _LOG.exception("calls to the limit store cannot be sent")
            for call in batch:
                call.fail(f"cannot be sent: {error}")
        else:
            _hand_over(batch, replies)
        finally:
            for timer in timers:
                timer.cancel()

    async def _pipeline(
        self, commands: Sequence[tuple[Word, ...]], within_s: float
    ) -> list[object]:
        pipeline = self._client.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        replies = await in_time(pipeline.execute(raise_on_error=False), within_s)
        return cast("list[object]", replies)


def _late(batch: Sequence[Call], timeout_s: float) -> None:
    for call in batch:
        if call.timeout_s == timeout_s:
            call.late()


def _hand_over(batch: Sequence[Call], replies: Sequence[object]) -> None:
    for call, reply in zip(batch, replies, strict=True):
        if call.answer.done():  # late, or its caller was cancelled, or it was sent again
            continue
        if isinstance(reply, Exception):
            failure = unavailable(reply, call.timeout_s)
            call.fail(str(failure), lost=failure.lost)
        else:
            call.answer.set_result(reply)
