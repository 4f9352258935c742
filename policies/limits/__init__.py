"""Limits as pure arithmetic: buckets, verdicts, estimates, prices.

Instants are whole milliseconds since the Unix epoch.
"""
