"""Parity: the same requests sent to real vLLM and to the simulator, and where the two differ."""
