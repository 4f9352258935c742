"""Experiments on the order in which requests wait: what it promises, beside other orders.

It may import the rest of the lab; nothing but its command imports it.
"""
