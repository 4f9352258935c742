"""Workloads: what is asked, in which words, when and by whom; the same for a simulator's virtual
time and for HTTP."""
