"""Real vLLM replicas on the CPU: their environment, a tiny model, and processes to run them.

Imports nothing of ours. vLLM itself is only ever touched through its own interpreter.
"""
