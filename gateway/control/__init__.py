"""The line between the supervisor and its picker workers (proto/control.proto).

May import picker.wire, gateway.limits.store and policies.
"""
