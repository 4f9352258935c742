"""What each endpoint of a pool has before it, and whether it would begin one more request."""

from __future__ import annotations

from dataclasses import replace

from picker.flight.ledger import Ledger
from picker.flight.prefill import MAX_TOKENS_PER_S
from picker.request.context import RequestContext
from picker.state.pool import PoolRuntime
from policies.flow.rivals import NOBODY, Before
from policies.flow.room import Batches, Reserved, has_room, has_spare_room, room
from policies.routing.types import Bools, PoolView, Slots


class Places:
    """By slot: what waits here for an endpoint, and what was let go to it and is not counted in the
    pool's columns yet."""

    def __init__(self, pool: PoolRuntime, ledger: Ledger) -> None:
        self.pool = pool
        self.waiting = Reserved.none(pool.state.slots)
        self.let_go = Reserved.none(pool.state.slots)
        self.elsewhere = Reserved.none(pool.state.slots)
        """What waits at other pickers."""
        self._ledger = ledger
        self._batches = Batches()
        self._generations: dict[int, int] = {}
        """By slot: of the endpoint that the bounds were learned of."""

    @property
    def speed(self) -> float:
        """Of prefill, tokens a second; as long as nothing is known of it nobody waits for its
        sake."""
        speed = self._ledger.speed(self.pool.name)
        return speed.tokens_per_s if speed.known else MAX_TOKENS_PER_S

    @property
    def believed_speed(self) -> float:
        """The same, a guess as long as nothing is known of it."""
        return self._ledger.speed(self.pool.name).tokens_per_s

    def reported(self, slot: int) -> None:
        """An engine has reported its load: how many requests it runs at a time is learned."""
        view = self.pool.state.view
        self._renew(slot)
        if view.lora_active.item(slot) >= view.lora_slots.item(slot) > 0:
            return  # what waits there may wait for a place of its adapter
        self._batches.saw(
            slot,
            running=view.running_requests.item(slot),
            waiting=view.waiting_requests.item(slot),
            ours=view.in_flight_requests.item(slot),
            kv_usage=view.kv_usage.item(slot),
            ahead_s=view.in_flight_prefill_tokens.item(slot) / self.speed,
        )

    def bound(self, slot: int) -> float:
        """Requests that the endpoint can run at a time, as far as is known."""
        self._renew(slot)
        return self._batches.bound(slot)

    def waiting_for(self, slot: int) -> float:
        """Requests that wait for the endpoint."""
        waiting = self.waiting.requests
        return waiting.item(slot) if slot < waiting.size else 0.0

    def roomy(self, slots: Slots) -> Bools:
        """Flags of the ``slots``: the endpoint would begin one more request."""
        self.grow()
        return room(self.pool.state.view, self.let_go, self._batches, slots, self.speed)

    def has_room(
        self, slot: int, before: Before = NOBODY, *, sheddable: bool = False, shares: bool = False
    ) -> bool:
        """Whether the endpoint would begin one more request, which leaves others some room if it is
        ``sheddable``; or has none of this picker, whose turn would never come while others keep it
        full, unless pickers let each other go (``shares``). ``before``: what else is to go there
        first."""
        self.grow()
        self._renew(slot)
        begins = has_spare_room if sheddable else has_room
        view = self.pool.state.view
        if begins(view, self.let_go, self._batches, slot, self.speed, before):
            return True
        return not shares and self._is_out(slot)

    def has_adapter_room(self, slot: int, context: RequestContext) -> bool:
        """Whether the endpoint has the request's LoRA adapter, or a slot for it. With nothing to do
        it has one: engines that stand still go on reporting the last that they did."""
        if not context.adapter:
            return True
        state = self.pool.state
        adapter = state.models.adapter(context.adapter)
        has, used = state.view.lora_slots.item(slot), state.view.lora_active.item(slot)
        if has == 0 or used < has or adapter is None or adapter.running.item(slot):
            return True
        self.grow()
        return state.view.in_flight_requests.item(slot) + self.let_go.requests.item(slot) < 1

    def view(self, own_slot: int, own_tokens: float) -> PoolView:
        """The pool's, with what waits as if it were there already, but for one request that waits
        or was let go, if ``own_slot`` is not negative."""
        self.grow()
        view, waiting, let_go = self.pool.state.view, self.waiting, self.let_go
        requests = waiting.requests + let_go.requests + self.elsewhere.requests
        tokens = waiting.prefill_tokens + let_go.prefill_tokens + self.elsewhere.prefill_tokens
        if own_slot >= 0:
            requests[own_slot] -= 1.0
            tokens[own_slot] -= own_tokens
        requests += view.in_flight_requests
        tokens += view.in_flight_prefill_tokens
        return replace(view, in_flight_requests=requests, in_flight_prefill_tokens=tokens)

    def _renew(self, slot: int) -> None:
        """Forget what was learned of the endpoint that had the slot before."""
        generation = self.pool.state.generation_of(slot)
        if self._generations.get(slot) != generation:
            self._generations[slot] = generation
            self._batches.reset(slot)

    def _is_out(self, slot: int) -> bool:
        """Nothing of this picker is on the endpoint, or on its way there."""
        if self.let_go.requests.item(slot):
            return False
        return not self._ledger.in_flight(self.pool.name, self.pool.state.address_of(slot))

    def grow(self) -> None:
        """Make room for all slots that the pool has by now."""
        slots = self.pool.state.slots
        if self.waiting.requests.size < slots:
            self.waiting.grow(slots)
            self.let_go.grow(slots)
            self.elsewhere.grow(slots)
