"""Orders to compare with. Importing this package registers them."""

from policies.flow.baselines import plain, vtc

__all__ = ["plain", "vtc"]
