"""One endpoint as the scraper sees it: what to read, and how it has answered so far."""

from __future__ import annotations

from collections.abc import Sequence

from yarl import URL

from picker.signals.engines import ENGINES, Engine, SignalError, detect, extract
from picker.signals.fetch import Failure, Fetcher, FetchError, Upstream
from picker.signals.models import ModelsError, parse_models
from picker.state.endpoints import Signals
from picker.state.models import ServedModel

_FAILURES_ALLOWED = 1
"""So many reads in a row may fail before the endpoint counts as failed; refusals none."""
_MODELS_RETRY_S = 2.0
_OTHER_PAGE = frozenset({Failure.NOT_THERE, Failure.BAD_BODY})


class Target:
    """An endpoint and the history of reading it, here and by other workers. ``engine`` None:
    detected from the first answer."""

    __slots__ = (
        "_adapters_seen",
        "_base",
        "_finds_page",
        "_given_engine",
        "_models_known",
        "_models_url",
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
        "started_s",
    )

    def __init__(self, address: str, engine: Engine | None, upstream: Upstream) -> None:
        self.address = address
        self.engine = engine
        self.failures = 0
        """Failed reads in a row."""
        self.failed_reason = ""
        """Not empty: reported as failed."""
        self.models_problem = ""
        """Not empty: why the model list could not be read."""
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
        known = [ENGINES[engine]] if engine else ENGINES.values()
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

    @property
    def has_requests(self) -> bool:
        """The engine had requests when last read."""
        signals = self._signals
        return signals is not None and bool(signals.waiting_requests or signals.running_requests)

    @property
    def appearing(self) -> bool:
        """Not read yet, or failed since: whatever is there now may be another process."""
        return self._signals is None

    @property
    def doubtful(self) -> bool:
        """The last read failed, but not often enough to call it failed."""
        return bool(self.failures) and not self.failed_reason

    async def read_signals(self, fetcher: Fetcher) -> Signals:
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
        body = await fetcher.get(self._models_url, self._upstream)
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
        self.known_s = started_s
        self.failures = 0
        self.failed_reason = ""
        return started_s >= self._next_models_s or not new <= self._models_known

    def failed_with(self, error: FetchError, started_s: float) -> bool:
        """Note a failed read; true when the endpoint is to count as failed."""
        if error.kind is Failure.LOCAL:
            return False
        self.failures += 1
        if error.kind is not Failure.REFUSED and self.failures <= _FAILURES_ALLOWED:
            return False
        self.known_s = self.listed_s = started_s
        # Another process may come back under this address.
        self._signals = None
        self.listed = self._finds_page = False
        self.engine = self._given_engine
        return True

    def heard(self, signals: Signals, started_s: float) -> None:
        """Note a good read by another worker, which reads the model list too when that is due."""
        self.started_s = max(self.started_s, started_s)
        self.succeeded(signals, started_s)

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
