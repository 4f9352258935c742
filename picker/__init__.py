"""The endpoint picker: ext_proc server, request pipeline, live state, signals.

May import policies.
"""
