"""Benchmarks of the picker's own cost, in the whole and in parts: ``python -m loadtests.bench``.
May import picker and policies."""
