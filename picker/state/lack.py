"""What an endpoint may lack without being out."""

from __future__ import annotations

from enum import StrEnum


class Lack(StrEnum):
    """Something that is not known of an endpoint, or no longer."""

    SIGNALS = "signals"
    """It lives, and does not report its load: what is in flight decides."""
    MODELS = "models"
    """It does not list its models: those of the configuration count."""
    ANSWER = "answer"
    """It did not answer in time: it is left out when that goes on, unless no other one answers."""
