"""Simulated vLLM replicas, workloads, replay and comparison: everything that puts load on Penstock.

May import `policies` and `picker`; nothing of ours imports it, except to start simulated replicas.
"""
