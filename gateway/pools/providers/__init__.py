"""Kinds of pools, a module each."""
