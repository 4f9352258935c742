"""vLLM's HTTP endpoints, one module for each family of requests."""
