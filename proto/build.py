"""Build hook: generates Python messages from the .proto files into ``picker/wire``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate(root: Path) -> None:
    """Write ``*_pb2.py`` and their stubs for every file in ``proto/``."""
    from grpc_tools import protoc

    source, target = root / "proto", root / "picker" / "wire"
    names = sorted(path.name for path in source.glob("*.proto"))
    options = [f"-I{source}", f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *options, *names]) != 0:
        raise RuntimeError(f"protoc failed for {', '.join(names)} in {source}")


class WireBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs for wheels and editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))
