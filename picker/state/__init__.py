"""Live state of the picker: endpoints, in-flight ledger, prefix index, adapters, sessions.

No I/O and no clock: time is passed in. May import policies and picker.prompt.
"""
