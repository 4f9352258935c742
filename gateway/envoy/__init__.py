"""The data plane: Envoy's configuration as data, and Envoy as a supervised process."""
