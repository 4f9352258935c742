"""What the picker keeps of a request it has sent, until it ends: never its body."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from picker.request.context import RequestContext
from picker.request.grant import Grant
from picker.request.labels import RequestLabels
from picker.request.report import Report
from picker.seams.observer import Completed
from picker.state.pool import PoolRuntime
from policies.limits.prices import Usage
from policies.routing.types import Features


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A request under way. Small, because tens of thousands may be: a long prompt leaves 8 bytes
    a block, not its text."""

    labels: RequestLabels
    pool: PoolRuntime
    address: str
    """The first choice."""
    served_model: str
    session: str
    streaming: bool
    prompt_tokens: float
    matched_tokens: float
    expected: Usage
    possible: Usage
    grant: Grant | None
    text_bytes: int
    """Bytes of prompt whose tokens tell the bytes-per-token ratio, 0 when they do not."""
    counted_tokens: int | None
    """Of that text, by the model's tokenizer."""
    chains: tuple[array[int], ...]
    decision_s: float
    features: Features

    @classmethod
    def of(cls, context: RequestContext, pool: PoolRuntime, decision_s: float) -> Dispatch:
        """What will be needed of ``context`` later."""
        prompt, blocks = context.prompt, context.blocks
        assert context.features is not None
        only_text = prompt is not None and prompt.token_ids == 0 and prompt.media_items == 0
        # Only a fallback needs the chains again.
        chains = blocks.chains if blocks is not None and len(context.addresses) > 1 else ()
        return cls(
            labels=context.labels(),
            pool=pool,
            address=context.addresses[0],
            served_model=context.served_model,
            session=context.session,
            streaming=context.fields is not None and context.fields.stream,
            prompt_tokens=context.prompt_tokens,
            matched_tokens=context.matched_tokens,
            expected=context.expected,
            possible=context.possible,
            grant=context.grant,
            text_bytes=prompt.text_bytes if prompt is not None and only_text else 0,
            counted_tokens=context.counted_tokens,
            chains=tuple(array("Q", chain) for chain in chains),
            decision_s=decision_s,
            features=context.features,
        )

    def completed(self, report: Report, usage: Usage | None) -> Completed:
        """The end of this request, for the observer. ``usage``: what it is charged."""
        reported = report.output_tokens is not None or report.input_tokens is not None
        used = usage or _NOTHING
        return Completed(
            labels=self.labels,
            endpoint=report.address,
            status=report.status,
            reason=report.reason,
            streaming=self.streaming,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cached_tokens=used.cached_tokens,
            usage_reported=reported,
            matched_tokens=self.matched_tokens,
            ttft_s=report.ttft_s,
            duration_s=report.duration_s,
            queue_s=0.0,
            decision_s=self.decision_s,
        )


_NOTHING = Usage(0, 0)
