"""Who asked for what, for metrics and logs."""

from __future__ import annotations

from msgspec import Struct


class RequestLabels(Struct, frozen=True):
    """Who asked for what; bounded values only where they become metric labels."""

    request_id: str
    tenant: str
    model: str
    """Model name as the client asked for it."""
    pool: str
    """Pool chosen, or "" when the request ended before one was."""
    path: str
    key: str = ""
    """Id of the API key."""
    user: str = ""
    """User of the tenant, if the request names one."""
    objective: str = ""
    """Inference objective named by the request, "" for none."""
    fairness_id: str = ""
    priority: int = 0
    """Its class."""
