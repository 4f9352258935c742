"""Limits and usage in this process, with a journal on disk."""
