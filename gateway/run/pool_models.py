"""What the command line of a `process` pool says of its model: vLLM's and SGLang's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.config.config import Config
from gateway.config.schema.pools import ProcessPool
from gateway.tokenizers.conversation import ContentFormat
from gateway.tokenizers.model_folder import EngineOptions
from gateway.tokenizers.own import PoolModel

_FOLDER: Final = ("--tokenizer", "--tokenizer-path", "--model", "--model-path")
"""The first one that is there counts."""
_FORMATS: Final[Mapping[str, ContentFormat]] = {one.value: one for one in ContentFormat}


def pool_models(config: Config) -> dict[str, PoolModel]:
    """By name of a pool that Penstock runs the replicas of."""
    return {pool.name: pool_model(pool) for pool in config.pools if isinstance(pool, ProcessPool)}


def pool_model(pool: ProcessPool) -> PoolModel:
    """Its folder, as far as one is named, and what prompts depend on."""
    said = _options(pool.command)
    cwd = pool.cwd or Path.cwd()
    named = next((said[option] for option in _FOLDER if option in said), None)
    template = said.get("--chat-template")
    if template is not None and (cwd / template).is_file():
        template = str((cwd / template).absolute())
    return PoolModel(
        (cwd / named).absolute() if named is not None else None,
        EngineOptions(
            template,
            _FORMATS.get(said.get("--chat-template-content-format", "auto")),
            said.get("--default-chat-template-kwargs", ""),
        ),
    )


def _options(command: Sequence[str]) -> dict[str, str]:
    """Values by option, in any form that engines take. What follows `serve` is the model."""
    said: dict[str, str] = {}
    for index, argument in enumerate(command):
        name, equals, value = argument.partition("=")
        following = command[index + 1] if index + 1 < len(command) else ""
        if argument == "serve" and following and not following.startswith("-"):
            said["--model"] = following
        elif argument.startswith("--"):
            said[name.replace("_", "-")] = value if equals else following
    return said
