"""Parity: the same requests sent to real vLLM and to the simulator, and where the two differ.

May import loadtests.sim.model; knows no routing policy.
"""
