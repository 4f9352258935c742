"""Pure decisions: no I/O, no clock, no randomness of their own, no asyncio.

The live picker and the simulator drive these very classes.
"""
