"""Baselines: plain policies, and the formulas of other routers, to compare with.

Importing this package registers them.
"""

from policies.routing.baselines import llmd, plain, routers

__all__ = ["llmd", "plain", "routers"]
