"""One endpoint as the scraper sees it: what to read, and how it has answered so far."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from yarl import URL

from picker.signals.engines import ENGINES, Engine, SignalError, detect, extract
from picker.signals.fetch import Failure, Fetcher, FetchError, Upstream
from picker.signals.models import ModelsError, parse_models
from picker.state.endpoints import Signals
from picker.state.models import ServedModel

_FAILURES_ALLOWED: Final = 1
"""So many reads in a row may fail before the endpoint counts as failed; refusals none."""
_MODELS_RETRY_S: Final = 2.0
_OTHER_PAGE: Final = frozenset({Failure.NOT_THERE, Failure.BAD_BODY})
_NO_PAGE_OF_ANY: Final = frozenset({Failure.REFUSED, Failure.LOCAL})
"""When one page fails so, every other one would."""
_PASSING: Final = frozenset({Failure.TIMEOUT, Failure.DISCONNECTED})
"""Failures of a page that may be another thing at the next read."""
_PAGES_TRIED: Final = 3
"""Metrics that could not be used so often in a row are read seldom from then on."""
_METRICS_RETRY_S: Final = 10.0


class NoSignals(Exception):  # noqa: N818 - a state of the replica, not a fault of the program
    """The replica answers, but says nothing of its load. The text says why; "" when none is
    expected of it."""


class Target:
    """An endpoint and the history of reading it, here and by other workers. ``engine`` None:
    detected from the first answer."""

    __slots__ = (
        "_adapters_seen",
        "_bad_pages",
        "_base",
        "_finds_page",
        "_given_engine",
        "_health_url",
        "_models_known",
        "_models_url",
        "_next_metrics_s",
        "_next_models_s",
        "_path",
        "_paths",
        "_signals",
        "_upstream",
        "address",
        "engine",
        "failed_reason",
        "failures",
        "known_s",
        "listed",
        "listed_s",
        "models_problem",
        "signals_problem",
        "started_s",
        "up",
        "urgent",
    )

    def __init__(self, address: str, engine: Engine | None, upstream: Upstream) -> None:
        self.address = address
        self.engine = engine
        self.failures = 0
        """Reads in a row that got no answer, or the answer of a server that is broken."""
        self.up = False
        """It has answered, and has not failed since."""
        self.urgent = False
        """Somebody waits to know whether it lives: the next read is not to wait for metrics that
        were late or bad."""
        self.failed_reason = ""
        """Not empty: reported as failed."""
        self.models_problem = ""
        """Not empty: why the model list could not be read."""
        self.signals_problem = ""
        """Not empty: why the last answer came without signals."""
        self.started_s = 0.0
        """Start of the last read, here or by another worker, on the scraper's clock."""
        self.known_s = 0.0
        """Start of the read that said what is known now."""
        self.listed = False
        """The model list is known, and the endpoint has not failed since."""
        self.listed_s = 0.0
        """Start of the last read of the model list, or of the failure after it."""
        self._given_engine = engine
        self._upstream = upstream
        self._base = URL(f"{'https' if upstream.tls is not None else 'http'}://{address}")
        self._models_url = self._base.with_path("/v1/models")
        self._health_url = self._base.with_path("/health")
        known = [metrics for name, metrics in ENGINES.items() if engine in (None, name)]
        self._paths = [
            self._base.with_path(path)
            for path in dict.fromkeys(path for metrics in known for path in metrics.paths)
        ]
        self._path = 0
        self._finds_page = False
        """The path is right."""
        self._signals: Signals | None = None
        self._models_known: frozenset[str] = frozenset()
        self._adapters_seen: frozenset[str] = frozenset()
        self._next_models_s = 0.0
        self._bad_pages = 0
        """Metrics in a row that were there and could not be used."""
        self._next_metrics_s = 0.0

    @property
    def has_requests(self) -> bool:
        """The engine had requests when last read."""
        signals = self._signals
        return signals is not None and bool(signals.waiting_requests or signals.running_requests)

    @property
    def appearing(self) -> bool:
        """Not read yet, or failed since: whatever is there now may be another process."""
        return not self.up

    @property
    def doubtful(self) -> bool:
        """The last read failed, but not often enough to call it failed."""
        return bool(self.failures) and not self.failed_reason

    async def look(self, fetcher: Fetcher, now_s: float) -> Signals:
        """What the engine says of its load. Raises NoSignals when it lives and does not say, and
        FetchError when it does not answer or is broken. Metrics that can be read are a sign of
        life; else the health page decides."""
        urgent, self.urgent = self.urgent and bool(self.signals_problem), False
        if not self._paths or urgent or now_s < self._next_metrics_s:
            await fetcher.probe(self._health_url, self._upstream)
            raise NoSignals(self.signals_problem)
        if self.failures or self.signals_problem:  # metrics may be slow: life must not wait
            signals, broken = await asyncio.gather(
                self._signals_or_not(fetcher), self._broken(fetcher)
            )
        else:
            signals, broken = await self._signals_or_not(fetcher), None
            if isinstance(signals, FetchError) and signals.kind not in _NO_PAGE_OF_ANY:
                broken = await self._broken(fetcher)
        if not isinstance(signals, FetchError):
            self._bad_pages, self._next_metrics_s = 0, 0.0
            return signals
        if signals.kind in _NO_PAGE_OF_ANY:
            raise signals
        if broken is not None:
            raise broken
        if signals.kind not in _PASSING:
            self._bad_pages += 1
            if self._bad_pages >= _PAGES_TRIED:
                self._next_metrics_s = now_s + _METRICS_RETRY_S
        raise NoSignals(str(signals))

    async def _signals_or_not(self, fetcher: Fetcher) -> Signals | FetchError:
        try:
            return await self._read_signals(fetcher)
        except FetchError as error:
            return error

    async def _broken(self, fetcher: Fetcher) -> FetchError | None:
        try:
            await fetcher.probe(self._health_url, self._upstream)
        except FetchError as error:
            return error
        return None

    async def _read_signals(self, fetcher: Fetcher) -> Signals:
        """GET the metrics; raises FetchError. Until a read of the endpoint succeeds here, a page
        that is not there, or is another one than expected, makes the other known paths be tried."""
        try:
            return await self._read_page(fetcher)
        except FetchError as error:
            if self._finds_page or error.kind not in _OTHER_PAGE:
                raise
            problem = error
        first = self._path
        for step in range(1, len(self._paths)):
            self._path = (first + step) % len(self._paths)
            try:
                return await self._read_page(fetcher)
            except FetchError as error:
                if problem.kind is Failure.NOT_THERE:
                    problem = error
                if error.kind not in _OTHER_PAGE:
                    break
        self._path = first
        raise problem

    async def _read_page(self, fetcher: Fetcher) -> Signals:
        url = self._paths[self._path]
        body = await fetcher.get(url, self._upstream)
        try:
            if self.engine is None:
                self.engine = detect(body)
            signals = extract(body, self.engine)
        except SignalError as error:
            raise FetchError(Failure.BAD_BODY, f"GET {url.path}: {error}") from error
        self._finds_page = True
        return signals

    async def read_models(
        self, fetcher: Fetcher, now_s: float, interval_s: float
    ) -> list[ServedModel]:
        """GET /v1/models; raises FetchError. Due again after ``interval_s``, sooner on failure."""
        self._next_models_s = now_s + _MODELS_RETRY_S
        body = await fetcher.get(self._models_url, self._upstream, patient=True)
        try:
            models = parse_models(body)
        except ModelsError as error:
            raise FetchError(Failure.BAD_BODY, str(error)) from error
        self.know_models(models, now_s, interval_s)
        return models

    def succeeded(self, signals: Signals, started_s: float) -> bool:
        """Note a good read; true when the model list is to be read: its time has come, or an
        adapter has shown up that it does not have."""
        adapters = signals.running_adapters | signals.waiting_adapters
        new = adapters - self._adapters_seen
        self._adapters_seen = adapters
        self._signals = signals
        self.signals_problem = ""
        return self._answered(started_s) or not new <= self._models_known

    def succeeded_without(self, problem: str, started_s: float) -> bool:
        """Note an answer without signals, and why there are none; true when the time of the model
        list has come."""
        self._signals = None
        self.signals_problem = problem
        return self._answered(started_s)

    def _answered(self, started_s: float) -> bool:
        self.up = True
        self.known_s = started_s
        self.failures = 0
        self.failed_reason = ""
        return started_s >= self._next_models_s

    def failed_with(self, error: FetchError, started_s: float) -> bool:
        """Note a failed read; true when the endpoint is to count as failed. One that only takes
        long does not: it may be busy, and is left out when it has been silent for too long."""
        if error.kind is Failure.LOCAL:
            return False
        self.failures += 1
        if error.kind is Failure.TIMEOUT:
            return False
        if error.kind is not Failure.REFUSED and self.failures <= _FAILURES_ALLOWED:
            return False
        self.known_s = self.listed_s = started_s
        # Another process may come back under this address.
        self._signals = None
        self.up = self.listed = self._finds_page = False
        self._bad_pages, self._next_metrics_s = 0, 0.0
        self.engine = self._given_engine
        return True

    def heard(self, signals: Signals, started_s: float) -> None:
        """Note a good read by another worker, which reads the model list too when that is due."""
        self.started_s = max(self.started_s, started_s)
        self.succeeded(signals, started_s)

    def heard_without(self, problem: str, started_s: float) -> None:
        """Note an answer without signals that another worker got."""
        self.started_s = max(self.started_s, started_s)
        self.succeeded_without(problem, started_s)

    def heard_failed(self, started_s: float) -> bool:
        """Note that the endpoint counts as failed for another worker; true when it does not here
        yet: it is to be read, and one failure is enough."""
        if self.failed_reason:
            self.started_s = max(self.started_s, started_s)
            return False
        self.failures = max(self.failures, _FAILURES_ALLOWED)
        return True

    def know_models(
        self, models: Sequence[ServedModel], started_s: float, interval_s: float
    ) -> None:
        """Note a model list, read here or by another worker; the next one is due in a while."""
        self._models_known = frozenset(model.id for model in models)
        self._next_models_s = started_s + interval_s
        self.listed = True
        self.listed_s = started_s
