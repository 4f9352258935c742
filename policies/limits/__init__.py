"""Limits as pure arithmetic: buckets, what is left in them, verdicts, estimates, prices.

Imports nothing of ours; no I/O, no clock. Instants are whole milliseconds since the Unix epoch.
"""
