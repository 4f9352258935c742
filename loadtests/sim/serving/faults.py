"""Faults on purpose: what a replica does wrong, when, and how often.

A fault is plain data (`parse` reads one from JSON). Its times are wall seconds: it begins
``after_s`` after it was given (faults of the command line: after the replica listens), and is over
``for_s`` later, or when it is taken back. A fault that affects single requests can affect a
``share`` of them, drawn by the replica's seed, and at most ``count``.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from loadtests.sim.serving.control import EngineControl

Paths = Literal["generating", "all"]
"""The endpoints that use the engine, or all (but for those of faults)."""

_KILLED = 128 + 9


class UnknownFaultError(KeyError):
    """No fault has that id."""


class RefusalError(Exception):
    """A request gets an error in place of its answer."""

    def __init__(self, status: HTTPStatus, retry_after_s: int | None = None) -> None:
        super().__init__(f"fault: {int(status)}")
        self.status = status
        self.retry_after_s = retry_after_s


class CutError(Exception):
    """A request's connection is reset."""


@dataclass(slots=True)
class Stream:
    """What faults know of one streamed answer."""

    tokens: int = 0
    """Tokens written so far."""
    spared_by: set[str] = field(default_factory=set)
    """Ids of the faults that could have struck it and did not."""


class Fault(BaseModel):
    """The common part of all faults. A kind of fault overrides what it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    after_s: float = Field(0.0, ge=0.0)
    for_s: float | None = Field(None, gt=0.0)

    @property
    def stops_engine(self) -> bool:
        """Whether nothing is computed while the fault is active."""
        return False

    @property
    def step_factor(self) -> float:
        """Factor on the time of the engine's steps while the fault is active."""
        return 1.0

    def begin(self, live: Live) -> None:
        """The fault begins."""

    async def before_request(self, live: Live, *, generating: bool) -> None:
        """A request has arrived. Raises RefusalError, CutError; may wait."""

    async def before_write(self, live: Live, stream: Stream, tokens: int) -> None:
        """A stream is about to write so many tokens. Raises CutError; may wait."""

    async def metrics(self, live: Live, page: bytes) -> bytes:
        """What /metrics answers in place of ``page``. Raises RefusalError; may wait."""
        return page


class Crash(Fault):
    """The process ends as by kill -9: when the fault begins, or at the n-th request or token."""

    kind: Literal["crash"]
    at_request: int | None = Field(None, ge=1)
    """The process ends when the n-th generating request arrives."""
    at_token: int | None = Field(None, ge=1)
    """The process ends in place of writing the n-th streamed token."""

    def begin(self, live: Live) -> None:
        if self.at_request is None and self.at_token is None:
            _die()

    async def before_request(self, live: Live, *, generating: bool) -> None:
        if generating and self.at_request is not None:
            live.hits += 1
            if live.hits >= self.at_request:
                _die()

    async def before_write(self, live: Live, stream: Stream, tokens: int) -> None:
        if self.at_token is not None:
            live.tokens += tokens
            if live.tokens >= self.at_token:
                _die()


class Hang(Fault):
    """Requests get nothing, not even headers, and running streams stop, until the fault is over.

    With ``count``, only so many requests hang, and nothing else stops.
    """

    kind: Literal["hang"]
    paths: Paths = "all"
    count: int | None = Field(None, ge=1)

    @property
    def stops_engine(self) -> bool:
        return self.count is None

    async def before_request(self, live: Live, *, generating: bool) -> None:
        if (generating or self.paths == "all") and live.strikes(count=self.count):
            await live.over.wait()

    async def before_write(self, live: Live, stream: Stream, tokens: int) -> None:
        if self.stops_engine:
            await live.over.wait()


class Error(Fault):
    """Requests are answered with an error status and vLLM's error body."""

    kind: Literal["error"]
    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    retry_after_s: int | None = Field(None, ge=0)
    paths: Paths = "generating"
    share: float = Field(1.0, gt=0.0, le=1.0)
    count: int | None = Field(None, ge=1)

    @field_validator("status")
    @classmethod
    def _is_an_error(cls, status: HTTPStatus) -> HTTPStatus:
        if status < HTTPStatus.BAD_REQUEST:
            raise ValueError(f"{int(status)} is no error, 400 to 599 are")
        return status

    async def before_request(self, live: Live, *, generating: bool) -> None:
        if (generating or self.paths == "all") and live.strikes(self.share, self.count):
            raise RefusalError(self.status, self.retry_after_s)


class Reset(Fault):
    """Connections are reset: in place of an answer, or in the middle of a stream."""

    kind: Literal["reset"]
    after_tokens: int | None = Field(None, ge=0)
    """Streams are cut after so many tokens (0: after the headers); None: requests get no answer."""
    paths: Paths = "generating"
    share: float = Field(1.0, gt=0.0, le=1.0)
    count: int | None = Field(None, ge=1)

    async def before_request(self, live: Live, *, generating: bool) -> None:
        if self.after_tokens is None and (generating or self.paths == "all"):
            self._cut(live)

    async def before_write(self, live: Live, stream: Stream, tokens: int) -> None:
        if self.after_tokens is None or not tokens or stream.tokens < self.after_tokens:
            return
        if live.id not in stream.spared_by:
            stream.spared_by.add(live.id)
            self._cut(live)

    def _cut(self, live: Live) -> None:
        if live.strikes(self.share, self.count):
            raise CutError


class Slow(Fault):
    """Every step of the engine takes ``factor`` times as long; several such faults multiply."""

    kind: Literal["slow"]
    factor: float = Field(ge=1e-3, le=1e6)

    @property
    def step_factor(self) -> float:
        return self.factor


class Metrics(Fault):
    """/metrics fails, hangs, is empty, lacks families, or repeats an earlier page."""

    kind: Literal["metrics"]
    mode: Literal["error", "hang", "empty", "missing", "frozen"]
    families: tuple[str, ...] = ()
    """Families that are missing, by their names on the page: "vllm:kv_cache_usage_perc"."""
    count: int | None = Field(None, ge=1)
    """Number of scrapes."""

    async def metrics(self, live: Live, page: bytes) -> bytes:
        if not live.strikes(count=self.count):
            return page
        match self.mode:
            case "error":
                raise RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR)
            case "hang":
                await live.over.wait()
                return page
            case "empty":
                return b""
            case "missing":
                return without_families(page, self.families)
            case "frozen":
                live.page = live.page or page
                return live.page


AnyFault = Annotated[Crash | Hang | Error | Reset | Slow | Metrics, Field(discriminator="kind")]
_FAULT: TypeAdapter[Fault] = TypeAdapter(AnyFault)


def parse(text: str | bytes) -> Fault:
    """A fault from a JSON object. Raises ValueError that says which field is wrong, and how."""
    try:
        fault = _FAULT.validate_json(text)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc'])) or 'fault'}: {e['msg']}" for e in error.errors())
        raise ValueError("; ".join(wrong)) from error
    if isinstance(fault, Metrics) and (fault.mode == "missing") is not bool(fault.families):
        raise ValueError("metrics.families: names are wanted with mode missing, and only there")
    return fault


def without_families(page: bytes, families: Iterable[str]) -> bytes:
    """A Prometheus page without some families (by the name in their TYPE line)."""
    missing = set(families)
    kept: list[str] = []
    family = ""
    for line in page.decode().splitlines(keepends=True):
        if line.startswith("# "):
            family = line.split(maxsplit=3)[2]
        if family not in missing:
            kept.append(line)
    return "".join(kept).encode()


class Live:
    """A fault that was given to a replica, and its state."""

    def __init__(self, number: int, fault: Fault, control: EngineControl, seed: int) -> None:
        self.id = str(number)
        self.fault = fault
        self.hits = 0
        self.tokens = 0
        self.page = b""
        self.active = False
        self.over = asyncio.Event()
        self._control = control
        self._rng = random.Random(f"{seed}/{number}")
        self._timer: asyncio.TimerHandle | None = None

    def start(self, changed: Callable[[], None]) -> None:
        """Begin now or later. ``changed`` is called when the fault begins and when it is over."""
        self._changed = changed
        if self.fault.after_s:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.fault.after_s, self._begin)
        else:
            self._begin()

    def finish(self) -> None:
        """End the fault, if it is not over."""
        if self._timer is not None:
            self._timer.cancel()
        self.over.set()
        if self.active:
            self.active = False
            self._control.let_go(self._reason)
            self._changed()

    def strikes(self, share: float = 1.0, count: int | None = None) -> bool:
        """Whether the fault strikes this time; if so, it counts."""
        if count is not None and self.hits >= count:
            return False
        struck = share >= 1.0 or self._rng.random() < share
        self.hits += struck
        return struck

    def describe(self) -> dict[str, object]:
        """The fault for JSON."""
        state = "over" if self.over.is_set() else "active" if self.active else "to come"
        fields = self.fault.model_dump(exclude_defaults=True)
        return {"id": self.id, "state": state, "hits": self.hits, "fault": fields}

    @property
    def _reason(self) -> str:
        return f"fault {self.id}"

    def _begin(self) -> None:
        self.active = True
        if self.fault.for_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.fault.for_s, self.finish)
        if self.fault.stops_engine:
            self._control.hold(self._reason)
        self.fault.begin(self)
        self._changed()


class Faults:
    """The faults of one replica."""

    def __init__(
        self, control: EngineControl, at_start: Iterable[Fault] = (), *, seed: int = 0
    ) -> None:
        self._control = control
        self._seed = seed
        self._at_start = tuple(at_start)
        self._given: dict[str, Live] = {}
        self._number = 0

    def start(self) -> None:
        """The replica begins to listen; the times of the faults given at its start begin too."""
        for fault in self._at_start:
            self.add(fault)

    def add(self, fault: Fault) -> Live:
        """Give a fault; needs the running event loop."""
        self._number += 1
        live = Live(self._number, fault, self._control, self._seed)
        self._given[live.id] = live
        live.start(self._set_speed)
        return live

    def remove(self, fault_id: str) -> Live:
        """Take a fault back. Raises UnknownFaultError."""
        live = self._given.pop(fault_id, None)
        if live is None:
            raise UnknownFaultError(fault_id)
        live.finish()
        return live

    def clear(self) -> None:
        """Take all faults back; whatever waits for one of them goes on."""
        for fault_id in list(self._given):
            self.remove(fault_id)

    def describe(self) -> list[dict[str, object]]:
        """All faults for JSON; those that are over stay until they are taken back."""
        return [live.describe() for live in self._given.values()]

    async def before_request(self, *, generating: bool) -> None:
        """A request has arrived. Raises RefusalError, CutError; may wait, may end the process."""
        for live in self._active():
            await live.fault.before_request(live, generating=generating)

    async def before_write(self, stream: Stream, tokens: int) -> None:
        """A stream is about to write so many tokens.

        Raises CutError; may wait, may end the process.
        """
        for live in self._active():
            await live.fault.before_write(live, stream, tokens)
        stream.tokens += tokens

    async def metrics(self, page: bytes) -> bytes:
        """What /metrics answers in place of ``page``. Raises RefusalError; may wait."""
        for live in self._active():
            page = await live.fault.metrics(live, page)
        return page

    def _active(self) -> Iterator[Live]:
        """Yields them one by one: while one makes a request wait, others may end."""
        return (live for live in list(self._given.values()) if live.active)

    def _set_speed(self) -> None:
        factors = [live.fault.step_factor for live in self._active()]
        self._control.engine.slow_down(math.prod(factors))


def _die() -> None:
    """End as by SIGKILL: no more bytes, no clean-up, and the status that a shell would show."""
    os._exit(_KILLED)
