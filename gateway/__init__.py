"""The front door and the control plane: configuration, Envoy, pools, telemetry, command line.

The composition root: it builds the picker and hands it its parts. May import picker and policies.
"""
