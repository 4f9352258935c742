"""Pools: the replicas that requests are routed to, found or run, as endpoints.

May import gateway.config, gateway.child and picker.state.endpoints.
"""
