"""The configuration: one YAML file, its schema, loading, watching and reference page.

Imports policies only (to check policy names); nothing else of ours.
"""
