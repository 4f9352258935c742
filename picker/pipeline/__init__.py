"""A request's way to a decision: small steps of one shape, in the order of `steps`."""
