"""The tree of the configuration file: all sections and their keys. Every key's description is
the docstring under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.config.schema.admin import Admin
from gateway.config.schema.counting import Limits
from gateway.config.schema.envoy import EnvoyProxy
from gateway.config.schema.fault import Location
from gateway.config.schema.identity import Identity
from gateway.config.schema.listen import Listen
from gateway.config.schema.models import ModelRule
from gateway.config.schema.picker import PickerSection
from gateway.config.schema.pools import Pool
from gateway.config.schema.pricing import Pricing
from gateway.config.schema.scheduling import Profile, Scheduling
from gateway.config.schema.section import ConfigPath, Section
from gateway.config.schema.telemetry import Telemetry
from gateway.config.schema.tenancy import Plan, Tenant


class Sections(Section):
    """Each section is sound by itself; whether they fit together is not checked here."""

    listen: Listen = Listen()
    """Where clients connect."""
    admin: Admin = Admin()
    """The admin API."""
    envoy: EnvoyProxy = EnvoyProxy()
    """The Envoy that Penstock runs."""
    picker: PickerSection = PickerSection()
    """The processes that decide."""
    scheduling: Scheduling = Scheduling()
    """How replicas are chosen."""
    pools: tuple[Pool, ...] = ()
    """Groups of replicas."""
    models: tuple[ModelRule, ...] = ()
    """Aliases and weighted rewrites of model names."""
    identity: Identity | None = None
    """How Penstock learns which tenant a request is from. Null: everybody is let in, without
    limits and uncounted; or, with plans or tenants, API keys are asked for."""
    plans: tuple[Plan, ...] = ()
    """What tenants get that refer to them, such as gold and free."""
    tenants: tuple[Tenant, ...] = ()
    """Teams, customers or services, and their API keys. More can be made at run time, with
    `penstock tenants` or the admin API."""
    pricing: Pricing | None = None
    """Prices of models."""
    limits: Limits = Limits()
    """Where limits are counted and usage is kept."""
    telemetry: Telemetry = Telemetry()
    """Logs."""
    state_dir: ConfigPath | None = None
    """Folder for what must outlive a restart: the SQLite file `penstock.db` with tenants, keys and
    usage. Null: `penstock-state` beside the configuration file. Made when it is first needed."""
    run_dir: ConfigPath | None = None
    """Folder for sockets, Envoy's files and the logs of child processes. Null: a temporary one."""

    @property
    def has_tenants(self) -> bool:
        """Whether each request belongs to a tenant. If not, everybody is anonymous and unlimited,
        nothing is recorded, and there is no state on disk."""
        return self.identity is not None or bool(self.plans or self.tenants or self.pricing)

    @property
    def identity_in_force(self) -> Identity:
        """`identity`, or what holds where it is not given: API keys alone. Only with
        `has_tenants`."""
        return self.identity or Identity()

    @property
    def state_file(self) -> Path:
        """The SQLite file. Raises LookupError when the configuration was not loaded from a file
        and names no folder."""
        if self.state_dir is None:
            raise LookupError("state_dir is not set, and there is no configuration file beside it")
        return self.state_dir / "penstock.db"

    def profile_of(self, pool: Pool) -> Profile:
        """The scheduling profile in force for a pool."""
        return self.scheduling.profiles[pool.profile or self.scheduling.default_profile]

    def listeners(self) -> Iterator[tuple[Location, str, int]]:
        """The ports of Penstock's own parts: place of the section, IP address, TCP port."""
        if self.envoy.enabled:
            yield ("listen",), self.listen.address, self.listen.port
        yield ("admin",), self.admin.address, self.admin.port
        picker = self.picker
        for key, optional in (
            ("ext_proc", picker.ext_proc),
            ("health", picker.health),
            ("metrics", picker.metrics),
        ):
            if optional.port is not None:
                yield ("picker", key), optional.address, optional.port
