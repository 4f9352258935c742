"""Whether a replica is worth a request. Imports nothing of ours."""
