"""Requests under way: from their dispatch to the report of their end."""
