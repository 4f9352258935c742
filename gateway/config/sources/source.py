"""What the supervisor needs of a place that the configuration comes from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError


class ConfigSource(Protocol):
    """Delivers the changes of a configuration while Penstock runs."""

    def changes(self) -> AsyncIterator[Config | ConfigError]:
        """Yields each new configuration that is accepted, and a ConfigError for each that is not.

        After a ConfigError the configuration in force stays; when the source goes back to it, it
        is yielded again, so that the error can be cleared.
        """
        ...
