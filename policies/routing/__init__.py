"""Routing policies: filters, scorers, selectors and the policies made of them; pure.

Importing this package registers the built-in ones.
"""

from policies.routing import auto, baselines, filters, scorers, selectors, weighted

__all__ = ["auto", "baselines", "filters", "scorers", "selectors", "weighted"]
