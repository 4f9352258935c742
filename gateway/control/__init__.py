"""The line between the supervisor and its picker workers (proto/control.proto)."""
