"""Fits a guessed output into limits: a guess must not make its own request impossible, and must not
leave nothing for the next requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from policies.limits.plan import Meter
from policies.limits.prices import Usage

GUESS_SHARE = 4
"""A guess takes at most this fraction, 1/4, of what a bucket can ever grant."""


def fitted(meters: Sequence[Meter], guess: Usage) -> Usage:
    """``guess`` with its output reduced, so that it takes at most a quarter of what each enforced
    bucket can ever grant, or at most what the input alone takes if that is more."""
    enforced = [meter for meter in meters if not meter.bucket.shadow]
    without = replace(guess, output_tokens=0, reasoning_tokens=0)
    room = [max(meter.bucket.limit // GUESS_SHARE, meter.amount(without)) for meter in enforced]

    def fits(output_tokens: int) -> bool:
        usage = replace(without, output_tokens=output_tokens)
        return all(m.amount(usage) <= most for m, most in zip(enforced, room, strict=True))

    if fits(guess.output_tokens):
        return guess
    least, most = 0, guess.output_tokens  # the amounts rise with the output
    while most - least > 1:
        middle = (least + most) // 2
        if fits(middle):
            least = middle
        else:
            most = middle
    return replace(without, output_tokens=least)
