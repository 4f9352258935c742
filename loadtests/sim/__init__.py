"""Simulated vLLM replicas: the engine model in virtual time, the server that serves it over HTTP,
and what fits the model to real servers. ``python -m loadtests.sim --model NAME --port 8001``."""
