"""What operators see: Prometheus metrics, the request log, the log of each process."""
