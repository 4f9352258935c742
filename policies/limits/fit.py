"""Fits a guessed output into limits: a guess must not make its own request impossible, and must not
leave nothing for the next requests."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from policies.limits.plan import Meter
from policies.limits.prices import Usage

GUESS_SHARE = 4
"""A guess takes at most this fraction, 1/4, of what a bucket can ever grant."""


def fitted(meters: Sequence[Meter], guess: Usage) -> Usage:
    """``guess`` with its output reduced, so that it takes at most a quarter of what each enforced
    bucket can ever grant, or at most what the input alone takes if that is more."""
    enforced = [meter for meter in meters if not meter.bucket.shadow]
    if all(meter.amount(guess) <= meter.bucket.limit // GUESS_SHARE for meter in enforced):
        return guess  # as nearly all do
    without = replace(guess, output_tokens=0, reasoning_tokens=0)
    room = [max(meter.bucket.limit // GUESS_SHARE, meter.amount(without)) for meter in enforced]
    least = largest_output(enforced, guess, room)
    if least is None or least >= guess.output_tokens:
        return guess
    return replace(without, output_tokens=least)


def largest_output(meters: Sequence[Meter], usage: Usage, room: Sequence[int]) -> int | None:
    """The most output tokens, up to those of ``usage``, with which it takes no more than ``room``
    from each enforced bucket. None: it takes more even without any."""
    pairs = [pair for pair in zip(meters, room, strict=True) if not pair[0].bucket.shadow]
    without = replace(usage, output_tokens=0, reasoning_tokens=0)

    def fits(output_tokens: int) -> bool:
        wanted = replace(without, output_tokens=output_tokens)
        return all(meter.amount(wanted) <= most for meter, most in pairs)

    if not fits(0):
        return None
    if fits(usage.output_tokens):
        return usage.output_tokens
    least, most = 0, usage.output_tokens  # the amounts rise with the output
    while most - least > 1:
        middle = (least + most) // 2
        if fits(middle):
            least = middle
        else:
            most = middle
    return least
