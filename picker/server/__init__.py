"""The picker's gRPC edge: ext_proc in both transports, access logs, health."""
