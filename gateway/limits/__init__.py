"""Limit stores: where reservations and usage live, in process or in Redis, and what happens when
Redis is gone. May import policies.
"""
