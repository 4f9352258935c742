"""Limits and times in the short form of the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, get_args

from gateway.config.schema.limit import Counted, Per, Separate

LIMIT_FORM: Final = (
    "COUNT=AMOUNT/PERIOD and, after commas, burst=AMOUNT, window=calendar,"
    " time_zone=Europe/Berlin, by=user+model, idle=1h, models=NAME+NAME, pools=NAME+NAME,"
    " name=NAME, shadow"
)
_EXAMPLE: Final = "total_tokens=100k/minute,by=user"
_AMOUNT: Final = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)([kMG]?)")
_FACTORS: Final = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|min|m|h|d)")
_SECONDS: Final = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400}


def limit_of(text: str) -> dict[str, object]:
    """The JSON form of a limit such as ``total_tokens=100k/minute,burst=200k,by=user``.

    Raises ValueError that says what is wrong and what would be right.
    """
    first, *rest = (part.strip() for part in text.split(","))
    count, equals, allowed = first.partition("=")
    if not equals or count not in get_args(Counted):
        raise ValueError(
            f"limit {text!r}: it begins with what it counts, one of"
            f" {', '.join(get_args(Counted))}, and = : for example {_EXAMPLE}"
        )
    how_much, slash, period = allowed.partition("/")
    found: dict[str, object] = {"count": count, "limit": _amount(text, how_much)}
    if slash:
        if period not in get_args(Per):
            raise ValueError(
                f"limit {text!r}: after / comes one of {', '.join(get_args(Per))}, not {period!r}"
            )
        found["period"] = period
    for part in rest:
        key, value = _setting(text, part)
        if key in found:
            raise ValueError(f"limit {text!r}: {key} is there twice")
        found[key] = value
    return found


def _setting(limit: str, part: str) -> tuple[str, object]:
    key, equals, value = part.partition("=")
    if key == "shadow" and not equals:
        return key, True
    if key == "burst" and value:
        return key, _amount(limit, value)
    if key == "window" and value in ("rolling", "calendar"):
        return key, value
    if key in ("name", "time_zone") and value:
        return key, value
    if key == "idle" and value:
        return "idle_s", seconds_of(value)
    if key in ("by", "models", "pools") and value:
        values = value.split("+")
        if key == "by" and not set(values) <= set(get_args(Separate)):
            raise ValueError(
                f"limit {limit!r}: by takes {', '.join(get_args(Separate))}, several with +"
            )
        return key, values
    raise ValueError(f"limit {limit!r}: {part!r} is not understood; a limit is {LIMIT_FORM}")


def _amount(limit: str, text: str) -> int | float:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"limit {limit!r}: an amount is a number such as 500, 2.5, 100k or 3M, not {text!r}"
        )
    found = Decimal(match[1].replace("_", "")) * _FACTORS[match[2]]
    return int(found) if found == int(found) else float(found)


def seconds_of(text: str) -> float:
    """Seconds of ``30s``, ``15min``, ``12h`` or ``90d``. Raises ValueError."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"a time span is written like 30s, 15min, 12h or 90d, not {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def instant_of(text: str, now: datetime) -> str:
    """A time with its zone, from a span from now (``90d``), a day (its beginning, UTC) or a time
    with a zone. Raises ValueError."""
    if _SPAN.fullmatch(text.strip()):
        return (now + timedelta(seconds=seconds_of(text))).isoformat()
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"a time is written like 90d, 2027-01-31 or 2027-01-31T12:00:00Z, not {text!r}"
        ) from error
    if found.tzinfo is None:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text) is None:
            raise ValueError(f"a time needs its zone, like {text}Z")
        found = found.replace(tzinfo=UTC)
    return found.isoformat()
