"""What replicas report of themselves: reading their /metrics and /v1/models."""
