"""Pools: the replicas that requests are routed to, found or run, as endpoints."""
