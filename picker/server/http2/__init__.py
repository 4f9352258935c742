"""HTTP/2 and gRPC for the socket of our own Envoy, without I/O. Imports nothing of ours."""
