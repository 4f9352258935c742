"""Benchmarks of the picker's own cost, as a whole and in parts: ``python -m loadtests.bench``."""
