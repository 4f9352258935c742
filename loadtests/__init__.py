"""Load without GPUs: simulated vLLM replicas, workloads, the lab, benchmarks."""
