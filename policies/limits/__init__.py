"""Limits as pure arithmetic: rules, buckets, verdicts, estimates and prices."""
