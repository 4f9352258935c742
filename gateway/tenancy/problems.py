"""Why a request of an operator cannot be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.config.reading.problems import ConfigError

T = TypeVar("T")


class TenancyError(Exception):
    """A request of an operator that cannot be done."""


class AlreadyExists(TenancyError):  # noqa: N818 - reads as what it is
    """The tenant is there already (409)."""


class UnknownTenant(TenancyError):  # noqa: N818
    """There is no such tenant (404)."""


class UnknownKey(TenancyError):  # noqa: N818
    """There is no key of that id (404)."""


class InConfiguration(TenancyError):  # noqa: N818
    """It stands in the configuration file: change it there (409)."""


class StaleVersion(TenancyError):  # noqa: N818
    """Somebody else has changed it since that version (409, or 412)."""


class Invalid(TenancyError):  # noqa: N818
    """The request is not valid (400)."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        """``problems``: the path of a key, such as ``limits[0].period``, and what is wrong
        there."""
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{key}: {what}" if key else what for key, what in problems))

    @classmethod
    def of(cls, error: ConfigError) -> Invalid:
        """The same problems."""
        return cls([(p.key, _text(p.expected, p.got, p.hint)) for p in error.problems])


def _text(expected: str, got: str, hint: str | None) -> str:
    text = f"expected {expected}, got {got}"
    return text if hint is None else f"{text} ({hint})"


def valid(read: Callable[[], T]) -> T:
    """The value that is read from an operator's request. Raises Invalid."""
    try:
        return read()
    except ConfigError as error:
        raise Invalid.of(error) from None
    except (TypeError, ValueError):
        raise Invalid([("", "expected what JSON can say")]) from None
