"""Limits and usage in Redis, shared by all pickers."""
