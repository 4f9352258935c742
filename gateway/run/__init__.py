"""Penstock at work: the supervisor, its picker workers, and the composition of both."""
