"""All pools at run time: their endpoints, what these report, and what was sent to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from picker.prompt.token_blocks import PromptTokens
from picker.request.role import Role
from picker.seams.background import AtOnce, Background
from picker.seams.peers import Finding, Sent
from picker.settings import PickerSettings, PoolSettings
from picker.state.breakers import Breakers
from picker.state.cache.exact import ExactIndex
from picker.state.cache.index import Reuse
from picker.state.endpoints import PoolState, Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from picker.state.pool import PoolRuntime, Profile
from picker.state.sessions import Sessions
from picker.state.shadow import Shadow
from picker.state.spec import EndpointChanges, EndpointSpec, changes_between
from policies.routing.spec import PolicySpec

Chains = Sequence[Sequence[int]]
_MAX_SESSIONS: Final = 100_000
_SESSION_TTL_S: Final = 3600.0


class Pools(dict[str, PoolRuntime]):
    """By name, those that came first first; only `configure` adds and removes any."""

    def __init__(
        self,
        bytes_per_token: Callable[[str], float],
        now: Callable[[], float],
        background: Background | None = None,
    ) -> None:
        """``bytes_per_token``: of a model's text, as learned. ``now``: picker's clock, seconds.
        ``background``: where shadows rank."""
        super().__init__()
        self._now = now
        self.states: dict[str, PoolState] = {}
        self._bytes_per_token = bytes_per_token
        self._background = background or AtOnce()

    def configure(self, settings: PickerSettings) -> None:
        """Take over new settings; pools that stay keep their state."""
        for pool in settings.pools:
            runtime = self.get(pool.name)
            if runtime is None:
                state = PoolState(pool.name, stale_after_s=settings.stale_after_s)
                self.states[pool.name] = state
                breakers = Breakers(settings.breaker)
                sessions = Sessions(max_sessions=_MAX_SESSIONS, ttl_s=_SESSION_TTL_S)
                self[pool.name] = PoolRuntime(
                    pool, state, ExactIndex(self._now), sessions, _profiles(pool), breakers
                )
            else:
                runtime.settings = pool
                runtime.breakers.use(settings.breaker)
                runtime.profiles = _profiles(pool, runtime.profiles)
                runtime.state.stale_after_s = settings.stale_after_s
            self[pool.name].shadow = self._shadow(pool.shadow, self[pool.name].shadow)
        kept = {pool.name for pool in settings.pools}
        for name in self.keys() - kept:
            self.sync_endpoints(name, ())
            del self[name], self.states[name]

    def _shadow(self, spec: PolicySpec | None, before: Shadow | None) -> Shadow | None:
        if before is not None and before.spec == spec:
            return before
        return None if spec is None else Shadow(spec, self._background)

    def apply_endpoints(self, changes: EndpointChanges) -> None:
        """Endpoints of a pool come, change and go; ignored for a pool that is not known. Requests
        that a removed one still serves stay in flight until the data plane reports their end."""
        runtime = self.get(changes.pool)
        if runtime is not None:
            for slot in runtime.state.apply(changes).removed.values():
                runtime.reset(slot)

    def sync_endpoints(self, pool: str, specs: Iterable[EndpointSpec]) -> None:
        """Make the pool's endpoints be these."""
        self.apply_endpoints(changes_between(pool, self[pool].state.specs, specs))

    def apply_signals(
        self, pool: str, address: str, signals: Signals, *, began_s: float, now_s: float
    ) -> bool:
        """Signals of a scrape that began at ``began_s``; False for an unknown endpoint."""
        runtime = self.get(pool)
        slot = runtime.state.slot_of.get(address) if runtime is not None else None
        if runtime is None or slot is None:
            return False
        state = runtime.state
        state.apply_signals(address, signals, now_s, began_s=began_s)
        model = next(iter(state.models.known()), "")
        capacity_tokens = float(state.view.kv_capacity_tokens[slot])
        runtime.cache.set_capacity(slot, capacity_tokens, self._bytes_per_token(model))
        return True

    def apply_models(self, pool: str, address: str, models: Sequence[ServedModel]) -> None:
        """What an endpoint lists under /v1/models."""
        runtime = self.get(pool)
        if runtime is not None:
            runtime.state.apply_models(address, models)

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, *, began_s: float, now_s: float
    ) -> None:
        """What could not be read of an endpoint that is not out."""
        runtime = self.get(pool)
        if runtime is not None:
            declared = runtime.settings.models
            runtime.state.apply_lack(
                address, lack, reason, now_s, began_s=began_s, declared=declared
            )

    def mark_failed(self, pool: str, address: str, *, now_s: float, reason: str) -> None:
        """Reading an endpoint failed for good: what comes back there will have an empty cache."""
        runtime = self.get(pool)
        if runtime is not None:
            runtime.state.mark_failed(address, now_s, reason)
            slot = runtime.state.slot_of.get(address)
            if slot is not None:
                runtime.cache.reset(slot)
                runtime.breakers.reset(slot)  # what comes back there is another process

    def sent(self, sent: Sent, now_s: float, tokens: PromptTokens | None = None) -> Sequence[int]:
        """What a request leaves behind at the endpoint it was sent to, by whatever picker; ignored
        for an endpoint that is not known here (yet). Returns what `CacheIndex.sent` does."""
        runtime = self.get(sent.pool)
        slot = runtime.state.slot_of.get(sent.address) if runtime is not None else None
        if runtime is None or slot is None:
            return ()
        added = runtime.cache.sent(slot, sent.chains, tokens)
        if sent.adapter:
            runtime.state.expect_adapter(sent.address, sent.adapter)
        if sent.session:
            runtime.sessions.bind(sent.session, sent.address, now_s)
        return added

    def take_back(self, sent: Sent) -> None:
        """The request has failed: forget what it alone has left behind."""
        runtime = self.get(sent.pool)
        slot = runtime.state.slot_of.get(sent.address) if runtime is not None else None
        if runtime is None or slot is None:
            return
        if sent.added:
            runtime.cache.take_back(slot, sent.chains, sent.added)
        if sent.session:
            runtime.sessions.unbind(sent.session, sent.address)

    def shadows(self) -> Iterator[tuple[str, Shadow]]:
        """Of the pools that have one."""
        for name, runtime in self.items():
            if runtime.shadow is not None:
                yield name, runtime.shadow

    def has_waiting(self, pool: str, address: str) -> bool:
        """Whether an endpoint has requests that it has not begun, by its signals."""
        runtime = self.get(pool)
        slot = runtime.state.slot_of.get(address) if runtime is not None else None
        if runtime is None or slot is None:
            return False
        return bool(runtime.state.view.waiting_requests[slot] > 0)

    def answered(self, pool: str, address: str, chains: Chains, reuse: Reuse) -> None:
        """An endpoint has answered a request with these chains of block hashes."""
        runtime = self.get(pool)
        slot = runtime.state.slot_of.get(address) if runtime is not None else None
        if runtime is not None and slot is not None:
            runtime.cache.answered(slot, chains, reuse)

    def tick(self) -> None:
        """A few times a second."""
        for runtime in self.values():
            runtime.cache.tick()

    def tripped(self, pool: str, now_s: float) -> dict[int, str]:
        """Slots of a pool whose circuit breakers are open or probing, and why, for people."""
        breakers = self[pool].breakers
        return {slot: breakers.why(slot, now_s) for slot in breakers.tripped(now_s)}

    def caches(self, pool: str) -> dict[int, str]:
        """Slots of a pool whose prefix caches are known by events ("events"), and those whose
        events have come and do not now ("missing")."""
        cache = self[pool].cache
        return dict.fromkeys(cache.missing_slots(), "missing") | dict.fromkeys(
            cache.exact_slots(), "events"
        )

    def take_opened(self) -> Counter[tuple[str, str, str]]:
        """How often circuit breakers were opened here since this was last asked for, by pool,
        address and model."""
        opened: Counter[tuple[str, str, str]] = Counter()
        for name, runtime in self.items():
            for (slot, model), times in runtime.breakers.take_opened().items():
                opened[name, runtime.state.address_of(slot), model] += times
        return opened

    def findings(self, now_s: float, *, everything: bool = False) -> Iterator[Finding]:
        """See `PeerSink`."""
        for name, runtime in self.items():
            for slot, model, verdict in runtime.breakers.news(now_s, everything=everything):
                yield Finding(name, runtime.state.address_of(slot), model, verdict)

    def found(self, finding: Finding) -> None:
        """What another worker has found of a circuit breaker."""
        runtime = self.get(finding.pool)
        slot = runtime.state.slot_of.get(finding.address) if runtime is not None else None
        if runtime is not None and slot is not None:
            runtime.breakers.hear(slot, finding.model, finding.verdict)

    def snapshot(self) -> dict[str, object]:
        """What has been learned, by pool, as JSON data."""
        return {name: learned for name, pool in self.items() if (learned := pool.snapshot())}

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """Take over a `snapshot` as far as pools and policies are the same."""
        for name, pool in self.items():
            pool.restore(snapshot.get(name))

    def any_candidate(self) -> bool:
        """Some endpoint can take requests for a model, as the last resort if need be."""
        return any(
            pool.state.models.any_served()[pool.state.last_resort()].any() for pool in self.values()
        )


def _profiles(pool: PoolSettings, before: Sequence[Profile] = ()) -> tuple[Profile, ...]:
    return (Profile.of(Role.BOTH, pool.policy, before),)
