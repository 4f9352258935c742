"""A request's way to a decision: small steps of one shape, in order.

Each step enriches the request context or ends it with a Rejection. May import picker.state,
picker.prompt and policies.
"""
