"""A small vLLM stand-in served over HTTP: `python -m loadtests.sim --model NAME --port 8001`.

The engine (`engine.py` and what it imports) knows nothing of HTTP; `server.py` and `surface/` do.
"""
