"""Gateways compared over HTTP: replicas and gateways as processes, a client, what it measures."""
