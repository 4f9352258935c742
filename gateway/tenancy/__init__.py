"""Tenants and API keys: where they are kept, how pickers follow them, and how a request is told to
be a tenant's. May import gateway.config, gateway.limits, picker and policies.
"""
