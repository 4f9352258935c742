"""Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024).

From the paper's description: each client has a counter of the tokens that it was served, a prompt
token counts 1 and an output token 2, whatever is cached and whatever the engine takes for it. The
client with the least counter goes next, of those that have a request waiting; within a client the
oldest request. A client that had nothing waiting is lifted to the least counter of those that have;
where none has, to the counter of the client that was the last to have. There are no classes.

The paper's scheduler sits in the engine and counts each output token when it is made. In front of
engines the lengths are known at the ends of answers, so this is its variant with length prediction:
the expected output counts from the beginning and is put right at the end.
"""

from __future__ import annotations

from math import inf

from policies.flow.item import Item
from policies.flow.shares import Shares
from policies.registry import register

_PROMPT_TOKEN = 1.0
_OUTPUT_TOKEN = 2.0


@register("order", "vtc")
class VirtualTokenCounter:
    """Tenants by prompt tokens and twice their output tokens, cached ones as well."""

    owed = 0.0

    def rank(self, item: Item) -> None:
        """See `Order`."""
        item.user, item.due_s, item.priority = "", inf, 0

    def price(self, item: Item) -> float:
        """See `Order`."""
        tokens = _PROMPT_TOKEN * item.prompt_tokens + _OUTPUT_TOKEN * item.output_tokens
        return tokens / item.weight

    def counters(self) -> VirtualCounters:
        """See `Order`."""
        return VirtualCounters()


class VirtualCounters(Shares):
    """Counters by the same arithmetic as shares, but for where who comes begins."""

    def _now(self) -> float:
        least = self._least()
        return self._virtual if least is None else least

    def leave(self, child: str) -> None:
        """See `Counters`."""
        super().leave(child)
        if not len(self):
            self._virtual = self._tags[child]
