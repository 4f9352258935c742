"""The configuration: one YAML file, its schema, loading, checks, watching and reference page."""
