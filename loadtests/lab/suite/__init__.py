"""The standing comparison of routing policies: fixed rows, each run kept, a table for the docs.

It may import the rest of the lab; nothing but its command imports it.
"""
