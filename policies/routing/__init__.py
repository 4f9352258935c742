"""Routing policies: filters, scorers, pickers and the policies made of them; pure.

Importing this package registers the built-in ones. May import policies.registry and numpy.
"""

from policies.routing import filters, pickers, scorers, weighted

__all__ = ["filters", "pickers", "scorers", "weighted"]
