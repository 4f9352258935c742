"""The configuration in force, and what became of the last change of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError

_NEEDS_RESTART: Final = ("run_dir", "envoy")
"""Sections that a running Penstock cannot change."""


class ConfigInForce:
    """Times are seconds since 1970."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.version = 0
        """Grows with each configuration that is assigned to the pickers."""
        self.accepted_s = time.time()
        self.refused: ConfigError | None = None
        """The last change, when it was not accepted."""
        self.refused_s = 0.0
        self._assigned_version = 0

    def accept(self, config: Config) -> None:
        """This one is in force from now on."""
        self.config, self.accepted_s, self.refused = config, time.time(), None

    def refuse(self, error: ConfigError) -> None:
        """A change is not accepted; the configuration stays."""
        self.refused, self.refused_s = error, time.time()

    def assigned(self, assignment_version: int) -> None:
        """The configuration is part of that assignment."""
        self.version += 1
        self._assigned_version = assignment_version

    def version_at(self, assignment_version: int) -> int:
        """Version of the configuration by which a picker works that has applied that assignment;
        0: it has applied none. A picker is never more than one configuration behind."""
        if assignment_version == 0:
            return 0
        return self.version - (assignment_version < self._assigned_version)

    def needs_restart(self, config: Config) -> Iterator[str]:
        """What is different in ``config`` and takes a restart to come into force."""
        before = self.config
        for section in _NEEDS_RESTART:
            if getattr(before, section) != getattr(config, section):
                yield section
        if (before.admin.address, before.admin.port) != (config.admin.address, config.admin.port):
            yield "admin's address"
        if _ports(before) != _ports(config):
            yield "a picker port"


def _ports(config: Config) -> object:
    """What the pickers' servers listen with."""
    return config.picker.ext_proc.model_copy(update={"fallbacks": 0}), config.picker.health
