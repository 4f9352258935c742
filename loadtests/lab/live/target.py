"""What is compared: a gateway that the lab starts in front of the replicas, or one that runs."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from yarl import URL

from loadtests.bench.peers import Peer
from loadtests.lab import choices
from loadtests.lab.source import LabError


class TargetKind(enum.StrEnum):
    """Which gateway a target is."""

    PENSTOCK = "penstock"
    ENVOY_ROUND_ROBIN = "envoy-round-robin"
    ENVOY_LEAST_REQUEST = "envoy-least-request"
    VLLM_ROUTER = "vllm-router"
    SGLANG_ROUTER = "sglang-router"
    RUNNING = "running"
    """One that runs already, named by its URL."""


ROUTERS: Mapping[TargetKind, Peer] = {
    TargetKind.VLLM_ROUTER: Peer.VLLM_ROUTER,
    TargetKind.SGLANG_ROUTER: Peer.SGLANG_ROUTER,
}
ROUTER_POLICIES: Mapping[TargetKind, tuple[str, ...]] = {
    TargetKind.VLLM_ROUTER: (
        "cache_aware",
        "round_robin",
        "random",
        "power_of_two",
        "consistent_hash",
        "sticky_least_loaded",
    ),
    TargetKind.SGLANG_ROUTER: ("cache_aware", "round_robin", "random", "power_of_two"),
}
"""Policies that need nothing but the workers' addresses; the first is the router's own default."""


@dataclass(frozen=True, slots=True)
class Target:
    """One contender of a live comparison."""

    kind: TargetKind
    title: str
    policy: str = ""
    """The gateway's own name of its policy; "" = its default."""
    params: Mapping[str, object] = field(default_factory=dict)
    """Parameters of Penstock's policy."""
    url: str = ""
    """URL of a gateway that runs already."""

    def as_data(self) -> Mapping[str, object]:
        """The target for result.json."""
        return {
            "label": self.title,
            "kind": str(self.kind),
            "policy": self.policy,
            "params": self.params,
            "url": self.url,
        }


def parse(text: str) -> tuple[Target, ...]:
    """Targets from ``name,name:policy,penstock:policy:{json},label=http://host:port,...``. Raises
    LabError, PolicyError."""
    targets: list[Target] = []
    for part in _parts(text):
        target = _target(part)
        if any(target.title == other.title for other in targets):
            raise LabError(f"target {target.title} is given twice")
        targets.append(target)
    if not targets:
        raise LabError(f"--targets: none is named; there are {_known()}")
    return tuple(targets)


def _target(text: str) -> Target:
    label, is_labelled, rest = text.partition("=")
    if is_labelled and rest.startswith(("http://", "https://")):
        return Target(TargetKind.RUNNING, label.strip() or rest, url=_url(rest))
    if text.startswith(("http://", "https://")):
        return Target(TargetKind.RUNNING, text, url=_url(text))
    name, _, policy = text.partition(":")
    try:
        kind = TargetKind(name)
    except ValueError:
        kind = TargetKind.RUNNING
    if kind is TargetKind.RUNNING:
        raise LabError(f"target {name!r}: there are {_known()}")
    if kind is TargetKind.PENSTOCK:
        return _penstock(policy)
    known = ROUTER_POLICIES.get(kind, ())
    if policy and policy not in known:
        choice = ", ".join(known) if known else "none, its name says it"
        raise LabError(f"target {name}: policy {policy!r} is not among those it has here: {choice}")
    return Target(kind, f"{name} {policy}" if policy else name, policy or "".join(known[:1]))


def _penstock(policy: str) -> Target:
    if not policy:
        return Target(TargetKind.PENSTOCK, "penstock")
    chosen = choices.policies(policy)
    if len(chosen) != 1:
        raise LabError(f"target penstock: one policy is wanted, not {policy!r}")
    [choice] = chosen
    return Target(
        TargetKind.PENSTOCK, f"penstock {choice.title}", choice.spec.name, choice.spec.params
    )


def _url(text: str) -> str:
    url = URL(text)
    if not url.host:
        raise LabError(f"target {text!r}: a URL has a host, as in http://127.0.0.1:8080")
    # Clients are given a base URL that ends with it; the lab adds its own paths.
    return str(url).rstrip("/").removesuffix("/v1")


def _parts(text: str) -> Iterator[str]:
    """The parts between commas, except for commas inside JSON."""
    decoder, part, place = json.JSONDecoder(), "", 0
    while place < len(text):
        if text.startswith(":{", place):
            try:
                _, end = decoder.raw_decode(text, place + 1)
            except ValueError as error:
                raise LabError(f"target {part}: its parameters are not JSON: {error}") from error
            part += text[place:end]
            place = end
            continue
        if text[place] == ",":
            yield part.strip()
            part = ""
        else:
            part += text[place]
        place += 1
    if part.strip() or text.rstrip().endswith(","):
        yield part.strip()


def _known() -> str:
    started = [str(kind) for kind in TargetKind if kind is not TargetKind.RUNNING]
    return f"{', '.join(started)}, and any running one as NAME=http://host:port"
