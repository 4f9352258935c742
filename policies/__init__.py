"""Pure decisions: no I/O, no clock, no randomness of their own, no asyncio.

Imports nothing of ours; the live picker and the simulator drive these very classes.
"""
