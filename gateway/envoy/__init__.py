"""The data plane: renders Envoy's configuration and keeps Envoy running.

May import picker (for the protocol's names), gateway.config and gateway.child.
"""
