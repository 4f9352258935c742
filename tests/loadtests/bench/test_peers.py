"""Gateways of others, where they cannot be had."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.bench import peers
from loadtests.bench.peers import Peer


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for them, and no index to have them from."""
    monkeypatch.setenv(peers.ENVIRONMENT_VARIABLE, str(tmp_path / "peers"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "1")
    return tmp_path / "peers" / "vllm-router"


def test_an_environment_that_was_left_half_made_is_completed(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
    with pytest.raises(peers.PeerError) as raised:
        peers.install(Peer.VLLM_ROUTER, print)
    said = str(raised.value)
    assert "ERROR: Could not find a version that satisfies the requirement vllm-router" in said
    assert "Connection refused" in said  # why there is none
    assert str(root / "install.log") in said


def test_a_second_installation_waits_for_the_first(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir(parents=True)
    monkeypatch.setattr(peers, "_installed", lambda _: True)
    heard: list[str] = []
    with (root / ".lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        def tell(text: str) -> None:
            heard.append(text)
            fcntl.flock(first, fcntl.LOCK_UN)

        peers.install(Peer.VLLM_ROUTER, tell)
    assert heard == [f"Another installation into {root} is under way: waiting for it ..."]
