"""The gateways that are compared: what each is started with, and what its processes are called.

Each has the fastest settings that its makers document, and so many workers or threads as it has
cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
import yaml

from loadtests.bench import peers, plain
from loadtests.bench.figures.limits import sections as limited
from loadtests.bench.peers import Peer
from loadtests.bench.ports import free_port
from loadtests.bench.prompts import MODEL
from loadtests.bench.stand import configuration


@dataclass(frozen=True, slots=True)
class Setting:
    """What a gateway is to be started for."""

    port: int
    """To listen on, at 127.0.0.1."""
    replicas: Sequence[int]
    """Ports of the mock upstream."""
    cores: int
    """That the gateway has."""
    folder: Path
    """For its files."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and what to add to the environment."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """A gateway in one setting."""

    title: str
    command: Callable[[Setting], Command]
    peer: Peer | None = None
    """It has to be installed first."""
    parts: Callable[[Sequence[str]], str] = lambda _: ""
    """Which part of the gateway a process with such a command line is; "": not named."""


def _envoy(setting: Setting) -> Command:
    file = setting.folder / "plain.json"
    addresses = [f"127.0.0.1:{port}" for port in setting.replicas]
    file.write_bytes(orjson.dumps(plain.configuration(setting.port, addresses)))
    program = str(Path(sys.executable).parent / "envoy")
    options = ["--concurrency", str(setting.cores), "--use-dynamic-base-id"]
    return Command([program, "-c", str(file), *options, "--log-level", "warning"])


def _penstock(setting: Setting, sections: Mapping[str, object]) -> Command:
    whole = configuration(setting.port, free_port(), setting.replicas, setting.folder, sections) | {
        "envoy": {"concurrency": setting.cores},
        "picker": {"workers": setting.cores},
    }
    file = setting.folder / "penstock.yaml"
    file.write_text(yaml.safe_dump(whole))
    return Command([sys.executable, "-m", "gateway.cli", "up", "-c", str(file)])


def penstock_part(words: Sequence[str]) -> str:
    """Envoy and the pickers by name, the rest as one."""
    if "gateway.run.worker" in words:
        return "picker"
    return "Envoy" if words and Path(words[0]).name == "envoy" else "the rest"


def _litellm(setting: Setting) -> Command:
    deployments = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_base": f"http://127.0.0.1:{port}/v1",
                "api_key": "none",
            },
        }
        for port in setting.replicas
    ]
    whole = {
        "model_list": deployments,
        "litellm_settings": {
            "num_retries": 0,
            "request_timeout": 600,
            "callbacks": [],
            "set_verbose": False,
            "telemetry": False,
        },
        "router_settings": {"routing_strategy": "simple-shuffle"},
    }
    file = setting.folder / "litellm.yaml"
    file.write_text(yaml.safe_dump(whole))
    program = peers.environment(Peer.LITELLM) / "bin" / "litellm"
    words = [str(program), "--config", str(file), "--host", "127.0.0.1", "--port"]
    variables = {
        # Without keys it does least.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        # Otherwise it fetches its list of prices when it starts.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return Command([*words, str(setting.port), "--num_workers", str(setting.cores)], variables)


def _router(peer: Peer, setting: Setting) -> Command:
    urls = [f"http://127.0.0.1:{port}" for port in setting.replicas]
    return Command(router_command(peer, urls, setting.port, policy="cache_aware", check_s=1))


def router_command(
    peer: Peer, urls: Sequence[str], port: int, *, policy: str, check_s: int
) -> list[str]:
    """The command for vllm-router or sglang-router; both have these options. ``policy``: its own
    name; ``check_s``: between two looks at a worker that does not answer yet."""
    level = "warning" if peer is Peer.VLLM_ROUTER else "warn"
    return [
        *(str(peers.interpreter(peer)), "-m", peers.MODULES[peer]),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
        *("--worker-startup-check-interval", str(check_s)),
        *("--log-level", level, "--policy", policy),
        *("--worker-urls", *urls),
    ]


ENVOY: Final = Contender("Envoy alone", _envoy)
CONTENDERS: Final = (
    ENVOY,
    Contender("Penstock", lambda setting: _penstock(setting, {}), parts=penstock_part),
    Contender(
        "Penstock with limits",
        lambda setting: _penstock(setting, limited()),
        parts=penstock_part,
    ),
    *(
        Contender(f"{peer} {peers.version(peer)}", command, peer)
        for peer, command in (
            (Peer.LITELLM, _litellm),
            (Peer.VLLM_ROUTER, lambda setting: _router(Peer.VLLM_ROUTER, setting)),
            (Peer.SGLANG_ROUTER, lambda setting: _router(Peer.SGLANG_ROUTER, setting)),
        )
    ),
)
