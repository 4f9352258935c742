"""The lab: routing policies compared in virtual time, and what comes of it for people to read.

May import policies, picker and the rest of loadtests.
"""
