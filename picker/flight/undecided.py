"""Requests that are not decided yet, and the one line in the log that each of them leaves which
never is: with the reason that the data plane gives for its end."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from picker.decisions.ring import Decisions
from picker.request.report import Ending, Report
from picker.seams.observer import Observer, Rejected

_PATIENCE_S: Final = 60.0
"""The end of a request is reported within a second, if it is reported at all."""
_MOST: Final = 100_000
_REMEMBERED: Final = 10_000
LEFT: Final = str(Ending.CLIENT_ABORTED)
"""Why a request has ended whose client has left."""
_UNREPORTED: Final = str(Ending.UNREPORTED)
_BY_THE_PROXY: Final = "Envoy or the gateway in front has refused it."
_WHY: Final = {
    LEFT: "Its client left before it was decided.",
    _UNREPORTED: "It ended before it was decided, and nothing says why.",
}


class Undecided:
    """Single-threaded; ``now`` is the picker's clock."""

    def __init__(self, observer: Observer, decisions: Decisions, now: Callable[[], float]) -> None:
        self._observer, self._decisions, self._now = observer, decisions, now
        self._expected: dict[str, Report | None] = {}
        """Requests that the data plane knows by their ids and that are still being decided, with
        their ends where these were reported: it does so when their clients leave, and this picker
        may hear of that in either order."""
        self._left: OrderedDict[str, tuple[float, Rejected]] = OrderedDict()
        """Those that have ended, as far as this picker knows, and whose end is to be reported."""
        self._refused: deque[str] = deque(maxlen=_REMEMBERED)
        """Ids, as clients know them, of requests that the data plane has refused by itself."""

    def __len__(self) -> int:
        return len(self._expected)

    def expect(self, id: str) -> None:  # noqa: A002 - the request's id
        """The data plane is told the id of a request: `over` or `left` follows."""
        self._expected[id] = None

    def over(self, id: str) -> Report | None:  # noqa: A002 - the request's id
        """A request is decided or answered. Returns its end, if it was reported before. Harmless
        for one that was not expected."""
        return self._expected.pop(id, None)

    def left(self, id: str, event: Rejected) -> None:  # noqa: A002 - the request's id
        """A request has ended undecided. Of one that was expected the data plane says why."""
        if id not in self._expected:
            self._tell(id, event)
            return
        early = self._expected.pop(id)
        if early is not None:
            self._tell(id, _as_reported(event, early))
            return
        self._left[id] = self._now(), event
        if len(self._left) > _MOST:
            self._lose()

    def reported(self, report: Report) -> None:
        """The end of a request was reported which is not under way."""
        if report.id in self._expected:
            self._expected[report.id] = report
        elif (found := self._left.pop(report.id, None)) is not None:
            self._tell(report.id, _as_reported(found[1], report))

    def refused(self, event: Rejected) -> None:
        """The data plane has refused a request by itself, which no picker has to report: it was
        not expected, or its picker is dead."""
        self._refused.append(event.labels.request_id)
        self._tell("", event)

    def tick(self) -> None:
        """Log those whose end will not be reported any more."""
        before_s = self._now() - _PATIENCE_S
        while self._left and next(iter(self._left.values()))[0] <= before_s:
            self._lose()

    def close(self) -> None:
        """No end will be reported any more."""
        while self._left:
            self._lose()

    def _lose(self) -> None:
        id_, (_, event) = self._left.popitem(last=False)
        if event.labels.request_id not in self._refused:  # before the data plane had heard its id
            self._tell(id_, replace(event, reason=_UNREPORTED))

    def _tell(self, id_: str, event: Rejected) -> None:
        self._observer.rejected(event)
        self._decisions.refused(id_, event, _WHY.get(event.reason, _BY_THE_PROXY))


def _as_reported(event: Rejected, report: Report) -> Rejected:
    return replace(event, status=report.status, reason=report.code or LEFT)
