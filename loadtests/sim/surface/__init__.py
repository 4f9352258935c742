"""vLLM's HTTP endpoints, one module for each family of requests.

May import the engine and its neighbours; they never import this.
"""
