"""Traffic: requests in order of time, from a workload and a way to begin its sessions.

The sender (a simulator in virtual time, a client over HTTP) asks when the next request is due,
takes it, and reports when it is answered or has failed; then the next request of its session is
planned. No clock is read here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from loadtests.workloads.sessions import Conversation, Request, Workload, said


class Traffic:
    """What open and closed loops share: conversations and their next turns."""

    def __init__(
        self, workload: Workload, *, max_requests: int | None = None, until_s: float = math.inf
    ) -> None:
        """At most ``max_requests`` are sent, and none from ``until_s`` on."""
        self.workload = workload
        self.sent = 0
        self._max_requests = max_requests
        self._until_s = until_s
        self._due: list[tuple[float, int, Conversation]] = []
        self._pushed = 0
        self._open: dict[str, Conversation] = {}

    @property
    def in_flight(self) -> int:
        """Number of requests that were taken and are neither answered nor failed."""
        return len(self._open)

    def next_s(self) -> float | None:
        """When the next request is due; None when none is: for now (some are in flight), or for
        good."""
        self._begin_next()
        if not self._due or self._due[0][0] >= self._until_s or self._spent():
            return None
        return self._due[0][0]

    def take(self, now_s: float) -> list[Request]:
        """The requests that are due by ``now_s``, in order of time."""
        taken: list[Request] = []
        while (due_s := self.next_s()) is not None and due_s <= now_s:
            conversation = heapq.heappop(self._due)[2]
            for request in conversation.ask(due_s):
                if self._spent():
                    conversation.abandon()
                    break
                self.sent += 1
                self._open[request.id] = conversation
                self._sent(conversation)
                taken.append(request)
        return taken

    def answered(
        self,
        request: Request,
        now_s: float,
        *,
        text: str | None = None,
        tokens: int | None = None,
    ) -> None:
        """The answer is complete. ``text`` and ``tokens`` are given when it is not as planned; the
        rest of the session repeats it as it is."""
        conversation = self._open.pop(request.id)
        if conversation.abandoned:
            return
        pause_s = conversation.answered(request, said(request.answer, text=text, tokens=tokens))
        if pause_s is not None:
            self._push(now_s + pause_s, conversation)
        elif conversation.over:
            self._over(conversation, now_s)

    def failed(self, request: Request, now_s: float) -> None:
        """The request failed. Its session ends, and answers to its other open requests have no
        effect."""
        conversation = self._open.pop(request.id)
        if not conversation.abandoned:
            conversation.abandon()
            self._over(conversation, now_s, failed=True)

    def _begin_next(self) -> None:
        """Push the sessions that might be due next."""

    def _over(self, conversation: Conversation, now_s: float, *, failed: bool = False) -> None:
        """A session has ended."""

    def _sent(self, conversation: Conversation) -> None:
        """A request of the session is sent."""

    def _push(self, at_s: float, conversation: Conversation) -> None:
        heapq.heappush(self._due, (at_s, self._pushed, conversation))
        self._pushed += 1

    def _spent(self) -> bool:
        return self._max_requests is not None and self.sent >= self._max_requests


class OpenLoop(Traffic):
    """Sessions begin at given times, whatever happens to earlier ones."""

    def __init__(
        self,
        workload: Workload,
        times_s: Iterable[float],
        *,
        max_requests: int | None = None,
        until_s: float = math.inf,
    ) -> None:
        """``times_s`` rise; session n of the workload begins at the nth time. Sessions with a time
        before 0 are under way when the run begins: their requests until then are not sent."""
        super().__init__(workload, max_requests=max_requests, until_s=until_s)
        self._times_s = iter(times_s)
        self._begun = 0
        self._start_s = next(self._times_s, None)

    def _begin_next(self) -> None:
        while self._start_s is not None and (not self._due or self._start_s <= self._due[0][0]):
            conversation = Conversation(self.workload.session(self._begun))
            at_s = conversation.catch_up(self._start_s, 0.0)
            if at_s is not None:
                self._push(at_s, conversation)
            self._begun += 1
            self._start_s = next(self._times_s, None)


class ClosedLoop(Traffic):
    """A fixed number of clients; each begins a session when its last one has ended."""

    def __init__(
        self,
        workload: Workload,
        concurrency: int,
        *,
        recycle: bool = False,
        ramp_s: float = 0.0,
        failure_pause_s: float = 1.0,
        requests_per_client: int | None = None,
        max_requests: int | None = None,
        until_s: float = math.inf,
    ) -> None:
        """``recycle``: each client repeats one session, as inference-perf's ``conversation_replay``
        does, and never begins another. ``requests_per_client``: a client stops after so many
        requests, even in the middle of a session; with ``max_requests`` instead, clients with short
        answers would send most of them. Clients begin within ``ramp_s``. After a failure a client
        waits for ``failure_pause_s``, so that refused requests are not repeated at once."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, got {concurrency}")
        super().__init__(workload, max_requests=max_requests, until_s=until_s)
        self._concurrency = concurrency
        self._recycle = recycle
        self._failure_pause_s = failure_pause_s
        self._left = [math.inf if requests_per_client is None else requests_per_client]
        self._left *= concurrency
        self._rounds = [0] * concurrency
        self._client_of: dict[Conversation, int] = {}
        for client in range(concurrency):
            self._begin(client, ramp_s * client / concurrency)

    def _begin(self, client: int, at_s: float) -> None:
        if self._left[client] <= 0:
            return
        nth = self._rounds[client]
        self._rounds[client] += 1
        try:
            if self._recycle:
                conversation = Conversation(self.workload.session(client), run=nth)
            else:
                session = self.workload.session(client + nth * self._concurrency)
                conversation = Conversation(session)
        except IndexError:  # the trace is over
            return
        self._client_of[conversation] = client
        self._push(at_s, conversation)

    def _sent(self, conversation: Conversation) -> None:
        client = self._client_of[conversation]
        self._left[client] -= 1
        if self._left[client] <= 0:
            conversation.finish()

    def _over(self, conversation: Conversation, now_s: float, *, failed: bool = False) -> None:
        client = self._client_of.pop(conversation)
        self._begin(client, now_s + (self._failure_pause_s if failed else 0.0))
