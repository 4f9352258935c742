"""What replicas say about themselves: reading their /metrics and /v1/models.

May import policies and picker.state.
"""
