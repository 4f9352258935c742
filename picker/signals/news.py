"""What the other workers of a host have read, taken in as if it had been read here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from picker.signals.settings import ScrapeSettings
from picker.signals.sink import ScrapeSink
from picker.signals.watched import Watched
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel


class News:
    """Gives a sink what others read; of endpoints that are not known here, nothing.

    Each worker's news come in the order of its reads, those of two workers in any order: what
    began earlier than the read that is known is old.
    """

    def __init__(
        self,
        watched: Mapping[tuple[str, str], Watched],
        sink: ScrapeSink,
        settings: Callable[[], ScrapeSettings],
        read_now: Callable[[Watched], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._watched = watched
        self._sink = sink
        self._settings = settings
        self._read_now = read_now
        self._clock = clock

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        """See `ScrapeSink`."""
        watched = self._alive(pool, address, started_s)
        if watched is not None:
            watched.target.heard(signals, started_s)
            self._sink.apply_signals(pool, address, signals, started_s)

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        """See `ScrapeSink`."""
        if lack is Lack.SIGNALS:
            watched = self._alive(pool, address, started_s)
            if watched is not None:
                watched.target.heard_without(reason, started_s)
                self._sink.apply_lack(pool, address, lack, reason, started_s)
            return
        known = self._watched.get((pool, address))
        if known is not None and started_s > known.target.listed_s:
            self._sink.apply_lack(pool, address, lack, reason, started_s)

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        """See `ScrapeSink`."""
        watched = self._watched.get((pool, address))
        if watched is not None and started_s > watched.target.listed_s:
            watched.target.know_models(models, started_s, self._settings().models_interval_s)
            self._sink.apply_models(pool, address, models, started_s)

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        """See `ScrapeSink`."""
        watched = self._newer(pool, address, started_s)
        if watched is None:
            return
        # A worker that is late itself takes a replica for dead: the others look for themselves.
        if not watched.target.heard_failed(started_s):
            watched.has_news = True
        elif watched.task is None:
            self._read_now(watched)

    def _alive(self, pool: str, address: str, started_s: float) -> Watched | None:
        """The endpoint, as in `_newer`, to be informed that it answers."""
        watched = self._newer(pool, address, started_s)
        if watched is None:
            return None
        if watched.target.appearing and not watched.target.listed:
            # No candidate before its models are known, and the list may have been lost.
            if watched.task is None:
                self._read_now(watched)
            return None
        watched.has_news = True
        return watched

    def _newer(self, pool: str, address: str, started_s: float) -> Watched | None:
        """The endpoint, when the read is newer than the known one, and young enough."""
        watched = self._watched.get((pool, address))
        if watched is None or started_s <= watched.target.known_s:
            return None
        return watched if self._clock() - started_s <= self._settings().news_until_s else None
