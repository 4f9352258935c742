"""How much output a request may ask for, so that limits can ever grant it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from picker.request.context import RequestContext
from policies.limits.fit import GUESS_SHARE, largest_output
from policies.limits.plan import Meter
from policies.limits.verdict import Denied, Refusal


def fitting_tokens(context: RequestContext, meters: Sequence[Meter]) -> int | None:
    """The largest bound of each answer with which the limits could grant the request at some time.
    None: there is none."""
    return _each(context, meters, [meter.bucket.limit for meter in meters])


def clamp(context: RequestContext, denied: Denied, meters: Sequence[Meter]) -> bool:
    """Lower the bound of a request that can never be granted to what is left, but not below a
    quarter of what can ever be granted. False: that is not wanted, or does not help."""
    fields = context.fields
    if (
        denied.refusal is not Refusal.NEVER
        or not context.caller.policy.clamp_max_tokens
        or fields is None
        or fields.max_output_tokens is None
    ):
        return False
    left = {one.bucket.key: one.remaining for one in denied.standings}
    room = [
        max(left.get(meter.bucket.key, 0), meter.bucket.limit // GUESS_SHARE) for meter in meters
    ]
    tokens = _each(context, meters, room)
    if tokens is None or tokens >= fields.max_output_tokens:
        return False
    context.clamped_output_tokens = tokens
    context.fields = structs.replace(fields, max_output_tokens=tokens)
    context.output_tokens = min(context.output_tokens, float(tokens * fields.choices))
    context.expected = structs.replace(context.expected, output_tokens=tokens * context.answers)
    return True


def _each(context: RequestContext, meters: Sequence[Meter], room: Sequence[int]) -> int | None:
    most = largest_output(meters, context.expected, room)
    each = 0 if most is None else most // context.answers
    return each or None
