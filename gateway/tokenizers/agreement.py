"""Whether engines make the tokens that our own tokenizers make: by the counts that they report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from picker.request.claim import Claim

_WRONG: Final = 3.0
"""So many wrong counts in a row, or one of three over a while, are too many."""
_RIGHT: Final = 0.5
"""What a right count makes good of a wrong one."""
_AGAIN_S: Final = 600.0
"""What was found is forgotten after this time: an engine may have been started anew."""
_MOST_ADDRESSES: Final = 1_000

_Subject = tuple[str, str, str]
"""Pool, model, and form of the request: a chat template may differ where the vocabulary does
not."""


class Agreement:
    """By pool, model and form. A replica by itself cannot spoil it for two others."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._wrong: dict[_Subject, dict[str, float]] = {}
        """How wrong our counts were lately, by address of a replica."""
        self._until_s: dict[_Subject, float] = {}

    def __call__(self, pool: str, model: str, form: str) -> bool:
        """As far as is known."""
        until_s = self._until_s.get((pool, model, form))
        return until_s is None or until_s <= self._now_s()

    def heard(self, claim: Claim, address: str, prompt_tokens: int) -> bool:
        """A count that an engine reports. True when it is the one too many."""
        subject = claim.pool, claim.model, claim.form.value
        by_address = self._wrong.setdefault(subject, {})
        before = by_address.get(address, 0.0)
        if before == 0.0 and claim.tokens == prompt_tokens and address in by_address:
            return False
        change = -_RIGHT if claim.tokens == prompt_tokens else 1.0
        by_address[address] = min(_WRONG, max(0.0, before + change))
        if len(by_address) > _MOST_ADDRESSES:
            del by_address[next(iter(by_address))]
        wrong = sum(score >= _WRONG for score in by_address.values())
        if not self(*subject) or not wrong or 2 * wrong < len(by_address):
            return False
        self._until_s[subject] = self._now_s() + _AGAIN_S
        by_address.clear()
        return True

    def doubted(self, pool: str) -> bool:
        """For some model and form of the pool."""
        now_s = self._now_s()
        return any(one == pool and until > now_s for (one, _, _), until in self._until_s.items())

    def forget(self) -> None:
        """The configuration is another one."""
        self._wrong.clear()
        self._until_s.clear()
