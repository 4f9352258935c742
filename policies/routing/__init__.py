"""Routing policies: filters, scorers, selectors and the policies made of them; pure.

Importing this package registers the built-in ones.
"""

from policies.routing import baselines, filters, scorers, selectors, weighted

__all__ = ["baselines", "filters", "scorers", "selectors", "weighted"]
