"""Other projects' gateways, installed from PyPI, each into an environment of its own."""

from __future__ import annotations

import enum
import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final


class Peer(enum.StrEnum):
    """A gateway of others."""

    LITELLM = "litellm"
    VLLM_ROUTER = "vllm-router"
    SGLANG_ROUTER = "sglang-router"


ROUTERS: Final = (Peer.VLLM_ROUTER, Peer.SGLANG_ROUTER)
ENVIRONMENT_VARIABLE: Final = "PENSTOCK_PEERS"
REQUIREMENTS: Final[Mapping[Peer, tuple[str, ...]]] = {
    # The newest whose parts are all on PyPI; 1.107.0 was compromised and withdrawn. Its server
    # takes the faster parser where there is one.
    Peer.LITELLM: ("litellm[proxy]==1.106.12", "httptools==0.8.0"),
    Peer.VLLM_ROUTER: ("vllm-router==0.1.17",),
    Peer.SGLANG_ROUTER: ("sglang-router==0.3.2",),
}
"""What is installed for each; the first is the gateway itself."""
MODULES: Final[Mapping[Peer, str]] = {
    Peer.LITELLM: "litellm.proxy.proxy_server",
    Peer.VLLM_ROUTER: "vllm_router.launch_router",
    Peer.SGLANG_ROUTER: "sglang_router.launch_router",
}
_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_INSTALL_S: Final = 600.0

Tell = Callable[[str], None]


class PeerError(RuntimeError):
    """A gateway cannot be installed; the message says what is missing."""


def environment(peer: Peer) -> Path:
    """The folder of its environment, whether or not it exists yet: in a clone of this repository,
    or else in the user's cache."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return Path(given).absolute() / peer
    if (_REPOSITORY / "pyproject.toml").is_file():
        return _REPOSITORY / ".venv-peers" / peer
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "penstock" / "peers" / peer


def interpreter(peer: Peer) -> Path:
    """The Python in which it is installed."""
    return environment(peer) / "bin" / "python"


def version(peer: Peer) -> str:
    """The version that is wanted."""
    return REQUIREMENTS[peer][0].partition("==")[2]


def install(peer: Peer, tell: Tell) -> None:
    """Install a gateway, unless it is installed. Raises PeerError."""
    wanted, root = " ".join(REQUIREMENTS[peer]), environment(peer)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / ".lock", tell):
            if _installed(peer):
                return
            tell(f"Installing {wanted} into {root} ...")
            if not _runs(peer, "import pip"):  # it is not there, or was left half made
                venv.create(root, symlinks=True, with_pip=True)
            _pip(peer, root / "install.log")
    except (OSError, subprocess.SubprocessError) as error:
        raise PeerError(f"{wanted} cannot be installed into {root}: {error}") from error
    if not _installed(peer):
        raise PeerError(f"{wanted} is installed in {root} but cannot be imported there")


def _pip(peer: Peer, log: Path) -> None:
    wanted = " ".join(REQUIREMENTS[peer])
    command = [str(interpreter(peer)), "-m", "pip", "install", "--disable-pip-version-check"]
    with log.open("ab") as file:
        file.write(f"--- {wanted}\n".encode())
        done = subprocess.run(
            [*command, "--no-input", *REQUIREMENTS[peer]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=_INSTALL_S,
        )
        file.write(done.stdout)
    if done.returncode:
        lines = done.stdout.decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("ERROR:")][:1] or lines[-3:]
        # To pip, an index that it cannot reach is a warning; then it finds no version.
        errors += [line for line in lines if line.startswith("WARNING: Retrying")][:1]
        raise PeerError(f"{wanted} cannot be installed: {' '.join(errors)} (all of it: {log})")


def _installed(peer: Peer) -> bool:
    """Whether it is there in the wanted version, and its native part loads on this machine."""
    name = REQUIREMENTS[peer][0].partition("==")[0].partition("[")[0]
    return _runs(
        peer,
        f"import importlib.metadata as m, importlib.util as u;"
        f" raise SystemExit(m.version({name!r}) != {version(peer)!r}"
        f" or u.find_spec({MODULES[peer]!r}) is None)",
    ) and (peer not in ROUTERS or _runs(peer, f"import {MODULES[peer]}"))


def _runs(peer: Peer, code: str) -> bool:
    """Whether its Python exists and runs the code without failing."""
    if not interpreter(peer).exists():
        return False
    done = subprocess.run(
        [str(interpreter(peer)), "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=_INSTALL_S,
    )
    return done.returncode == 0


@contextmanager
def _locked(path: Path, tell: Tell) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"Another installation into {path.parent} is under way: waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Install the routers that penstock lab live can compare with, and say where.

    PENSTOCK_PEERS names another folder for them than .venv-peers in a clone, or else
    ~/.cache/penstock/peers.
    """
    failed = False
    for router in ROUTERS:
        try:
            install(router, print)
        except PeerError as error:
            failed = True
            print(error, file=sys.stderr)
        else:
            print(f"{REQUIREMENTS[router][0]} is ready in {environment(router)}")
    if failed:
        sys.exit(1)
