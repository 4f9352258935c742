"""Limits and usage: the limiter, its stores in process and in Redis, and outages of these."""
