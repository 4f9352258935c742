"""Reads what the command line gives in words: policies and lists of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from loadtests.lab.experiment import PolicyChoice
from loadtests.lab.source import LabError
from policies.routing.spec import PolicySpec
from policies.routing.weighted import DEFAULT_PROFILE

_MOST_STEPS = 200


def policies(text: str) -> tuple[PolicyChoice, ...]:
    """Policies from ``name,name:{json},...``; ``weighted`` without parameters has the default
    scorers. Each is built once, so that mistakes are found before anything runs. Raises LabError,
    PolicyError."""
    choices: list[PolicyChoice] = []
    for name, params in _named(text):
        label = name if params is None else f"{name} {json.dumps(params, separators=(',', ':'))}"
        if params is None:
            params = dict(DEFAULT_PROFILE) if name == "weighted" else {}
        spec = PolicySpec(name, params)
        spec.build()
        if any(label == other.title for other in choices):
            raise LabError(f"policy {label} is given twice")
        choices.append(PolicyChoice(label, spec))
    if not choices:
        raise LabError("name at least one policy: penstock lab policies lists them")
    return tuple(choices)


def _named(text: str) -> Iterator[tuple[str, Mapping[str, object] | None]]:
    decoder = json.JSONDecoder()
    rest = text.strip()
    while rest:
        ends = [place for place in (rest.find(","), rest.find(":")) if place >= 0]
        end = min(ends, default=len(rest))
        name, after = rest[:end].strip(), rest[end:]
        if not name:
            raise LabError(f"a policy has a name: there is none before {after!r} in {text!r}")
        params: Mapping[str, object] | None = None
        if after.startswith(":"):
            after = after[1:].lstrip()
            try:
                params, end = decoder.raw_decode(after)
            except ValueError as error:
                raise LabError(f"policy {name}: its parameters are not JSON: {error}") from error
            if not isinstance(params, dict):
                raise LabError(f"policy {name}: its parameters are a JSON object, not {params!r}")
            after = after[end:].lstrip()
        if after and not after.startswith(","):
            raise LabError(f"policy {name}: a comma is missing before {after!r}")
        yield name, params
        if after == ",":
            raise LabError(f"a policy is missing after the last comma of {text!r}")
        rest = after[1:].strip()


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers from ``5,10,20`` or ``5:20:5`` (first, last, step), or both. Raises LabError."""
    found: list[float] = []
    for part in text.split(","):
        try:
            ends = [float(number) for number in part.split(":")]
        except ValueError:
            ends = []
        if len(ends) not in (1, 3) or not all(map(math.isfinite, ends)):
            raise LabError(f"{option}: {part!r} is neither a number nor FIRST:LAST:STEP")
        if len(ends) == 1:
            found += ends
            continue
        first, last, step = ends
        if step <= 0 or last < first:
            raise LabError(f"{option}: {part!r} must rise, by a step over 0")
        steps = math.floor((last - first) / step + 1e-9)
        if steps > _MOST_STEPS:
            raise LabError(f"{option}: {part!r} makes more than {_MOST_STEPS} loads")
        found += [first + step * index for index in range(steps + 1)]
    return tuple(found)


def sizes(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers from 1, as in `numbers`. Raises LabError."""
    found = numbers(text, option)
    if any(value < 1 or value != int(value) for value in found):
        raise LabError(f"{option}: whole numbers from 1 are wanted, not {text!r}")
    return tuple(sorted({int(value) for value in found}))
