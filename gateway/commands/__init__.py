"""Commands that talk to the admin API of a running Penstock, a module for each group.

May import gateway.config; reads and writes nothing but that API.
"""
