"""Routing policies: filters, scorers, pickers and the policies made of them; pure.

Importing this package registers the built-in ones.
"""

from policies.routing import (
    baselines,
    baselines_llmd,
    baselines_peers,
    filters,
    pickers,
    scorers,
    weighted,
)

__all__ = [
    "baselines",
    "baselines_llmd",
    "baselines_peers",
    "filters",
    "pickers",
    "scorers",
    "weighted",
]
