"""Benchmarks of the picker's own cost. May import picker and policies."""
