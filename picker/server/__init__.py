"""The picker's gRPC edge: ext_proc in both transports, access logs, health.

May import picker.pipeline and picker.core; nothing below knows gRPC.
"""
