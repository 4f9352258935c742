"""Script calls to a Redis Cluster, through redis-py: it knows which node has which slot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, cast

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError

from gateway.limits.line import Call, Reply, Word, begin, in_time, unavailable
from gateway.limits.scripts import Script
from gateway.limits.store import StoreUnavailable

_LOG: Final = logging.getLogger("penstock.limits")


class ClusterCaller:
    """`Caller` that sends what is begun in one turn of the loop in one batch a node."""

    def __init__(self, client: RedisCluster, timeout_s: float) -> None:
        """``timeout_s`` bounds every call, connecting included."""
        self._client = client
        self._timeout_s = timeout_s
        self._begun: list[Call] = []
        self._batches: set[asyncio.Task[None]] = set()

    def call(self, script: Script, keys: Sequence[str], arguments: bytes) -> asyncio.Future[Reply]:
        """See `Caller.call`."""
        return self._begin(("EVALSHA", script.sha, len(keys), *keys, arguments), script)

    def send(self, *words: Word) -> asyncio.Future[Reply]:
        """See `Caller.send`."""
        return self._begin(words, None)

    async def close(self) -> None:
        """See `Caller.close`."""
        if self._begun:
            self._flush()
        if self._batches:
            await asyncio.wait(self._batches)

    def _begin(self, words: tuple[Word, ...], script: Script | None) -> asyncio.Future[Reply]:
        loop = asyncio.get_running_loop()
        answer, deadline_s = begin(loop, self._timeout_s)
        if not self._begun:
            loop.call_soon(self._flush)
        self._begun.append(Call(answer, deadline_s, words, script))
        return answer

    def _flush(self) -> None:
        batch, self._begun = self._begun, []
        if not batch:
            return
        task = asyncio.create_task(self._send(batch), name="limit store batch")
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _send(self, batch: Sequence[Call]) -> None:
        try:
            replies = await self._pipeline(batch, [call.words for call in batch])
            unknown = [
                call
                for call, reply in zip(batch, replies, strict=True)
                if isinstance(reply, NoScriptError) and not call.answer.done()
            ]
            if unknown:
                again = await self._pipeline(unknown, [call.in_full() for call in unknown])
                _hand_over(unknown, again, self._timeout_s)
        except StoreUnavailable as error:
            for call in batch:
                call.fail(str(error), lost=error.lost)
        except Exception as error:  # noqa: BLE001 - handed to the callers
            _LOG.exception("calls to the limit store cannot be sent")
            for call in batch:
                call.fail(f"cannot be sent: {error}")
        else:
            _hand_over(batch, replies, self._timeout_s)

    async def _pipeline(
        self, batch: Sequence[Call], commands: Sequence[tuple[Word, ...]]
    ) -> list[object]:
        left_s = batch[0].deadline_s - asyncio.get_running_loop().time()
        pipeline = self._client.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        replies = await in_time(pipeline.execute(raise_on_error=False), max(left_s, 0.0))
        return cast("list[object]", replies)


def _hand_over(batch: Sequence[Call], replies: Sequence[object], timeout_s: float) -> None:
    for call, reply in zip(batch, replies, strict=True):
        if call.answer.done():  # its caller was cancelled, or it was sent again
            continue
        if isinstance(reply, Exception):
            failure = unavailable(reply, timeout_s)
            call.fail(str(failure), lost=failure.lost)
        else:
            call.answer.set_result(reply)
