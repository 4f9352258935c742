"""Tenants and API keys: where they are kept, how pickers follow them, whose a request is."""
