"""A vLLM engine in virtual time: its scheduler, its KV cache and how long its steps take.

May import nothing of ours outside this folder: runners and servers drive it, it drives nobody.
"""
