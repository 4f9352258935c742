"""The commands of ``penstock lab``, one module each.

May import all of the lab.
"""
