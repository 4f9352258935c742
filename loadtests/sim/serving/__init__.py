"""A replica over HTTP: the engine model run by the wall clock, and vLLM's endpoints in front."""
