"""The data plane: renders Envoy's configuration and keeps Envoy running."""
