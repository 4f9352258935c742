"""Steps: what is not let in at all, and what is answered at the door, without a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from picker.pipeline.open_paths import HEALTH_PATHS, MODELS, OpenPaths
from picker.request.answer import Answer
from picker.request.context import RequestContext
from picker.request.rejection import Reason, Rejection
from picker.request.target import has_two_readings
from picker.settings import PoolSettings

MAX_HEADERS: Final = 150
"""Of a request, Envoy's own among them; our Envoy takes up to 200."""
_MAX_SHOWN_CHARS: Final = 200
_HEALTHY: Final = Answer(200, (("content-type", "application/json"),), b'{"status":"ok"}')


class RefuseWhenDraining:
    """503 while the picker shuts down."""

    def __init__(self, is_draining: Callable[[], bool]) -> None:
        self._is_draining = is_draining

    def __call__(self, context: RequestContext) -> None:
        if self._is_draining():
            raise Rejection(Reason.SHUTTING_DOWN, "This gateway is shutting down.")


class RefuseManyHeaders:
    """431 for more headers than leave room for those that a decision adds: Envoy refuses a request
    that gets too many, with an error that would be ours."""

    def __call__(self, context: RequestContext) -> None:
        if context.head.header_lines > MAX_HEADERS:
            raise Rejection(
                Reason.TOO_MANY_HEADERS, f"The request has more than {MAX_HEADERS} headers."
            )


class RefuseClosedPaths:
    """404 for a path that no pool's engine has open for clients, 405 for a method that it does not
    take, 403 for a path that servers may read in two ways. Answers OPTIONS, which browsers and
    probes send without a key."""

    def __init__(
        self,
        pools: Iterable[PoolSettings],
        passthrough: Iterable[str],
        handed_over: Iterable[str] = (),
    ) -> None:
        """``handed_over``: see `HandOver`."""
        self._open = OpenPaths({pool.engine for pool in pools}, passthrough, handed_over)

    def __call__(self, context: RequestContext) -> None:
        method, path = context.head.method, context.head.path
        if method == "OPTIONS" and path == "*":
            context.answer = Answer(204, (), b"")
            return
        if has_two_readings(path) and not path.startswith(MODELS + "/"):
            raise Rejection(
                Reason.PATH_NOT_ALLOWED,
                "The path has an escaped delimiter, a control character or a dot segment, which"
                " servers do not all read alike.",
            )
        methods = self._open.methods(path)
        if methods is None:
            raise closed(path, self._open.instead_of(path))
        if method in methods:
            return
        allowed = ", ".join(sorted({*methods, "OPTIONS"}))
        if method == "OPTIONS":
            context.answer = Answer(204, (("allow", allowed),), b"")
            return
        raise Rejection(
            Reason.METHOD_NOT_ALLOWED,
            f"{method[:_MAX_SHOWN_CHARS]} is not a method of {path[:_MAX_SHOWN_CHARS]}: it takes"
            f" {allowed}.",
            headers=(("allow", allowed),),
        )


class AnswerHealth:
    """200 on the health paths while some replica can serve, else 503."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    def __call__(self, context: RequestContext) -> None:
        if context.head.path in HEALTH_PATHS:
            if not self._is_ready():
                raise Rejection(Reason.NO_ENDPOINTS, "No replica can serve now.")
            context.answer = _HEALTHY


class RefusePathsOfOtherEngines:
    """404 for a path that is open for the engine of another pool, but not of the pool that the
    request goes to."""

    def __init__(self, pools: Iterable[PoolSettings], passthrough: tuple[str, ...]) -> None:
        pools = tuple(pools)
        by_engine = {
            engine: OpenPaths((engine,), passthrough) for engine in {pool.engine for pool in pools}
        }
        self._open = {pool.name: by_engine[pool.engine] for pool in pools}
        self._same = len(by_engine) < 2

    def __call__(self, context: RequestContext) -> None:
        if self._same or context.pool not in self._open:
            return
        methods = self._open[context.pool].methods(context.head.path)
        if methods is None or context.head.method not in methods:
            raise closed(context.head.path, None)


def closed(path: str, instead: str | None) -> Rejection:
    """404 for a path that clients may not call."""
    shown = path[:_MAX_SHOWN_CHARS]
    hint = f" Did you mean {instead}?" if instead else ""
    return Rejection(
        Reason.PATH_NOT_FOUND,
        f"There is no {shown} here.{hint} The gateway's `passthrough` setting opens more paths.",
    )
