"""Bounds of the parameters of routing policies and their parts."""

from __future__ import annotations


def at_least(least: float, unit: str = "", **values: float) -> None:
    """Raises ValueError, with the name, when one of the named ``values`` is below ``least``."""
    for name, value in values.items():
        if value < least:
            wanted = f"{least:g} or more {unit}".rstrip()
            raise ValueError(f"{name} must be {wanted}, got {value:g}")


def more_than(limit: float, **values: float) -> None:
    """Raises ValueError, with the name, unless all named ``values`` are above ``limit``."""
    for name, value in values.items():
        if value <= limit:
            raise ValueError(f"{name} must be more than {limit:g}, got {value:g}")


def share(**values: float) -> None:
    """Raises ValueError, with the name, unless all named ``values`` are from 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1, got {value:g}")
