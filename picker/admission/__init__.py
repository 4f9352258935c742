"""The asynchronous edge of `policies.flow`: requests wait here for their pool."""
