"""No two parts may listen on the same port."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config.schema.fault import Fault, Location, key_path
from gateway.config.schema.pools import ProcessPool
from gateway.config.schema.sections import Sections


@dataclass(frozen=True, slots=True)
class _Claim:
    at: Location
    address: str
    ports: range

    def clashes(self, other: _Claim) -> bool:
        ours, theirs = ipaddress.ip_address(self.address), ipaddress.ip_address(other.address)
        same = ours == theirs or ours.is_unspecified or theirs.is_unspecified
        overlap = max(self.ports.start, other.ports.start) < min(self.ports.stop, other.ports.stop)
        return same and overlap

    def __str__(self) -> str:
        last = f" to {self.ports.stop - 1}" if len(self.ports) > 1 else ""
        return f"{self.address} port {self.ports.start}{last}"


def check_ports(config: Sections) -> Iterator[Fault]:
    """A fault for every part whose port an earlier one has."""
    earlier: list[_Claim] = []
    for claim in _claims(config):
        other = next((one for one in earlier if claim.clashes(one)), None)
        if other is not None:
            yield Fault(
                claim.at,
                "a port that nothing else uses",
                got=str(claim),
                hint=f"{key_path(other.at)} has {other}",
            )
        earlier.append(claim)


def _claims(config: Sections) -> Iterator[_Claim]:
    for at, address, port in config.listeners():
        yield _Claim((*at, "port"), address, range(port, port + 1))
    for index, pool in enumerate(config.pools):
        if isinstance(pool, ProcessPool) and pool.ports:
            yield _Claim(("pools", index, "first_port"), pool.host, pool.ports)
