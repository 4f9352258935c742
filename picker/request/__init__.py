"""A request as values: its head, its caller, its context, its answer or rejection."""
