"""Step: the replicas to try, best first."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from functools import partial

import numpy as np
from msgspec.structs import replace

from picker import names
from picker.admission.admission import Admission
from picker.decisions.choice import choice_of
from picker.decisions.left_out import Reasons, asked_of
from picker.flight.ledger import Ledger
from picker.request.choice import Choice
from picker.request.context import RequestContext
from picker.request.pick import Pick
from picker.request.rejection import Reason, Rejection
from picker.request.role import Role
from picker.state.candidates import candidates_of
from picker.state.pool import PoolRuntime, Profile
from picker.state.pools import Pools
from policies.routing.types import Features, PoolView, RoutingRequest, Slots


class Schedule:
    """Candidates (healthy, in the subset, serving the model), ranked by the pool's policy."""

    def __init__(
        self,
        pools: Pools,
        ledger: Ledger,
        admission: Admission,
        reasons: Reasons,
        rng: random.Random,
        now: Callable[[], float],
    ) -> None:
        self._admission = admission
        self._pools = pools
        self._ledger = ledger
        self._reasons = reasons
        self._rng = rng
        self._now = now

    def __call__(self, context: RequestContext) -> None:
        pool, now_s = self._pools.get(context.pool), self._now()
        if pool is None:  # removed while the request waited for an earlier step
            raise Rejection(Reason.NO_ENDPOINTS, f"There is no pool {context.pool!r} any more.")
        self._ledger.settle_prefills(now_s)
        candidates = candidates_of(context, pool, now_s)
        blocks = context.blocks
        request = RoutingRequest(
            prompt_tokens=context.prompt_tokens,
            max_output_tokens=context.output_tokens,
            matched_tokens=np.zeros(pool.state.slots)
            if blocks is None
            else pool.cache.match(blocks, context.prompt_tokens, pool.state.slots, context.tokens),
            adapter=pool.state.models.adapter(context.adapter) if context.adapter else None,
            session_slot=_session_slot(context, pool, now_s),
            session=context.session or None,
            ttft_objective_s=context.head.time_s(names.TTFT_OBJECTIVE_MS),
            tpot_objective_s=context.head.time_s(names.TPOT_OBJECTIVE_MS),
        )
        if _only_if_cached(context) and not request.matched_tokens[candidates].any():
            raise Rejection(Reason.NOT_CACHED, "No replica has any of this prompt cached.")
        admitting = pool.breakers.admitting(candidates, context.served_model, now_s)
        view = self._admission.view(context, pool)
        picked = [
            self._pick(context, pool, view, request, candidates, admitting, profile, now_s)
            for profile in pool.profiles
        ]
        context.picks = tuple([pick for pick, _ in picked])
        context.choices = tuple([choice for _, choice in picked])

    def _pick(
        self,
        context: RequestContext,
        pool: PoolRuntime,
        view: PoolView,
        request: RoutingRequest,
        candidates: Slots,
        admitting: Slots,
        profile: Profile,
        now_s: float,
    ) -> tuple[Pick, Choice]:
        """``admitting``: those of the candidates whose circuit breakers let the request through.
        The others are tried after them: better a try that may fail than none."""
        able = pool.state.in_role(admitting, profile.role)
        others = candidates[:0]
        if admitting.size < candidates.size:
            every = pool.state.in_role(candidates, profile.role)
            able, others = (able, _without(every, able)) if able.size else (every, others)
        if profile.role is not Role.BOTH:
            prefills = profile.role is Role.PREFILL
            request = replace(request, prefills=prefills, decodes=not prefills)
        count = pool.settings.fallbacks + 1
        ranking = None
        if able.size:
            ranking = profile.policy.rank(request, view, able, count, now_s, self._rng)
        if ranking is None or ranking.slots.size == 0:
            raise Rejection(
                Reason.NO_ENDPOINTS, f"No replica of pool {pool.name!r} fits this request."
            )
        features = Features.seen(request, pool.state.view, ranking.slots.item(0))
        slots, scores = ranking.slots.tolist(), ranking.scores.tolist()
        last = others.tolist()[: count - len(slots)]
        pick = Pick(
            role=profile.role,
            addresses=tuple(map(pool.state.address_of, slots + last)),
            scores=(*scores, *(0.0 for _ in last)),
            features=features,
        )
        choice = choice_of(profile.spec.name, ranking, request, pool.state, pick, able.size)
        there = len(pool.state.slot_of)
        if able.size < there or choice.candidates < there:
            told = ranking.considered if choice.weighed is not None else None
            weighed = able if told is None else told.slots
            asked = asked_of(context, profile.role)
            choice.left_out = self._reasons.of(pool, able, weighed, asked, now_s)
        if pool.shadow is not None and profile is pool.profiles[-1]:
            model = context.served_model
            context.ask_shadow = partial(
                pool.shadow.consider, choice, request, pool.state, able, count, now_s, model
            )
        return pick, choice


def _without(slots: Slots, others: Slots) -> Slots:
    """Those of the slots that are not among the ``others``, in order."""
    left = np.ones(slots.max() + 1, np.bool_)
    left[others] = False
    return slots[left[slots]]


def _only_if_cached(context: RequestContext) -> bool:
    preferences = context.head.headers.get(names.CONDITIONAL_DECODE)
    return preferences is not None and any(
        one.strip().lower() == "if-available" for one in preferences.split(",")
    )


def _session_slot(context: RequestContext, pool: PoolRuntime, now_s: float) -> int | None:
    headers = context.head.headers
    token = headers.get(names.SESSION_TOKEN)
    address: str | None = None
    if token:
        try:
            address = base64.b64decode(token, validate=True).decode("ascii")
        except ValueError:
            address = None  # not one of ours: routed as if it had none
    if address not in pool.state.slot_of and context.session:
        address = pool.sessions.address_of(context.session, now_s)
    return pool.state.slot_of.get(address) if address else None
