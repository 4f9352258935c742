"""Gateways compared over HTTP: replicas and gateways as processes, a client, what it measures.

May import the lab beside it, the workloads and the benchmarks' arithmetic. The gateways are only
ever processes: nothing of theirs, Penstock's own among them, is imported.
"""
