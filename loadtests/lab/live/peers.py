"""Other projects' routers, installed from PyPI into an environment of their own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtests.lab.live.target import TargetKind
from loadtests.lab.source import LabError

ENVIRONMENT_VARIABLE: Final = "PENSTOCK_LAB_PEERS"
REQUIREMENTS: Final[Mapping[TargetKind, str]] = {
    TargetKind.VLLM_ROUTER: "vllm-router==0.1.17",
    TargetKind.SGLANG_ROUTER: "sglang-router==0.3.2",
}
MODULES: Final[Mapping[TargetKind, str]] = {
    TargetKind.VLLM_ROUTER: "vllm_router.launch_router",
    TargetKind.SGLANG_ROUTER: "sglang_router.launch_router",
}
_INSTALL_S: Final = 600.0

Tell = Callable[[str], None]


class PeerError(LabError):
    """A router cannot be installed; the message says what is missing."""


def environment() -> Path:
    """The folder of the environment, whether or not it exists yet."""
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if given:
        return Path(given).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "penstock" / "peers"


def interpreter() -> Path:
    """The Python in which the routers are installed."""
    return environment() / "bin" / "python"


def install(kind: TargetKind, tell: Tell) -> None:
    """Install a router, unless it is installed. Raises PeerError."""
    wanted, root = REQUIREMENTS[kind], environment()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / ".lock", tell):
            if _installed(kind):
                return
            tell(f"Installing {wanted} into {root} ...")
            if not _runs("import pip"):  # it is not there, or was left half made
                venv.create(root, symlinks=True, with_pip=True)
            _pip(wanted, root / "install.log")
    except (OSError, subprocess.SubprocessError) as error:
        raise PeerError(f"{wanted} cannot be installed into {root}: {error}") from error
    if not _installed(kind):
        raise PeerError(f"{wanted} is installed in {root} but cannot be imported there")


def _pip(wanted: str, log: Path) -> None:
    command = [str(interpreter()), "-m", "pip", "install", "--disable-pip-version-check"]
    with log.open("ab") as file:
        file.write(f"--- {wanted}\n".encode())
        done = subprocess.run(
            [*command, "--no-input", wanted],
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


def _installed(kind: TargetKind) -> bool:
    """Whether the router is there in the wanted version, and its native part loads on this
    machine."""
    name, _, version = REQUIREMENTS[kind].partition("==")
    return _runs(
        f"import importlib, importlib.metadata as m; importlib.import_module({MODULES[kind]!r});"
        f" raise SystemExit(m.version({name!r}) != {version!r})"
    )


def _runs(code: str) -> bool:
    """Whether the routers' Python exists and runs the code without failing."""
    if not interpreter().exists():
        return False
    done = subprocess.run(
        [str(interpreter()), "-c", code],
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

    PENSTOCK_LAB_PEERS names another folder for them than ~/.cache/penstock/peers.
    """
    failed = False
    for kind, wanted in REQUIREMENTS.items():
        try:
            install(kind, print)
        except PeerError as error:
            failed = True
            print(error, file=sys.stderr)
        else:
            print(f"{wanted} is ready in {environment()}")
    if failed:
        sys.exit(1)
