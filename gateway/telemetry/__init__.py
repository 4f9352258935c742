"""What operators see: Prometheus metrics, the request log, the process log."""
