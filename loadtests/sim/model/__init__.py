"""A vLLM engine in virtual time: its scheduler, its KV cache and how long its steps take."""
