"""Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024).

From the paper's description: each client has a counter of the tokens that it was served, a prompt
token counts 1 and an output token 2, whatever is cached and whatever the engine takes for it. The
client with the least counter goes next, of those that have a request waiting; within a client the
oldest request. A client that had nothing waiting is lifted to the least counter of those that have;
where none has, to the counter of the client that was the last to have. There are no classes.

The paper's scheduler sits in the engine and counts each output token when it is made. In front of
engines the lengths are known at the ends of answers, so this is its variant with length prediction:
the expected output counts from the beginning and is put right at the end. What was counted too much
is set off against what the client is given next, since counters do not go down here.
"""

from __future__ import annotations

import heapq
from math import inf

from policies.flow.item import Item
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


class VirtualCounters:
    """See `Counters`."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._owed: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._heap: list[tuple[float, str]] = []
        """Counters of those that wait; old ones among them, which are less than the true ones."""
        self._last = ""
        """The last to have something waiting."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, child: str) -> bool:
        return child in self._waiting

    def tag(self, child: str) -> float:
        """See `Counters`."""
        return self._served.get(child, 0.0)

    def join(self, child: str) -> None:
        """See `Counters`."""
        count = self._waiting.get(child, 0)
        if not count:
            least = self._least() if self._waiting else self.tag(self._last)
            self._served[child] = max(self.tag(child), least)
            heapq.heappush(self._heap, (self._served[child], child))
        self._waiting[child] = count + 1

    def leave(self, child: str) -> None:
        """See `Counters`."""
        self._waiting[child] -= 1
        if not self._waiting[child]:
            del self._waiting[child]
            self._last = child

    def charge(self, child: str, amount: float) -> None:
        """See `Counters`."""
        owed = self._owed.pop(child, 0.0)
        if owed > amount:
            self._owed[child] = owed - amount
        self._served[child] = self.tag(child) + max(0.0, amount - owed)

    def correct(self, child: str, amount: float) -> None:
        """See `Counters`."""
        if amount >= 0:
            self._served[child] = self.tag(child) + amount
        else:
            self._owed[child] = self._owed.get(child, 0.0) - amount

    def gap(self) -> float:
        """See `Counters`."""
        tags = [self.tag(child) for child in self._waiting]
        return max(tags) - min(tags) if tags else 0.0

    def ahead(self, child: str) -> float:
        """See `Counters`."""
        return max(0.0, self.tag(child) - self._least()) if self._waiting else 0.0

    def _least(self) -> float:
        """Of those that have something waiting, of which there are some."""
        heap = self._heap
        while True:
            tag, child = heap[0]
            now = self.tag(child)
            if child in self._waiting and tag == now:
                return tag
            heapq.heappop(heap)
            if child in self._waiting:
                heapq.heappush(heap, (now, child))
