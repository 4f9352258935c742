"""What a pool's command says of its model."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.schema.pools import ProcessPool
from gateway.run.pool_models import pool_model
from gateway.tokenizers.conversation import ContentFormat
from gateway.tokenizers.model_folder import EngineOptions


def pool(folder: Path, *command: str) -> ProcessPool:
    return ProcessPool(name="p", type="process", command=(*command, "--port", "{port}"), cwd=folder)


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        (("vllm", "serve", "model"), "model"),
        (("python", "-m", "api_server", "--model", "model"), "model"),
        (("x", "--model=model"), "model"),
        (("x", "--model_path", "model"), "model"),
        (("x", "--model", "model", "--tokenizer", "other"), "other"),
        (("vllm", "serve", "--model", "/models/m"), "/models/m"),
        (("x", "serve"), None),
    ],
)
def test_the_folder(tmp_path: Path, command: tuple[str, ...], folder: str | None) -> None:
    expected = None if folder is None else tmp_path / folder
    assert pool_model(pool(tmp_path, *command)).folder == expected


def test_what_prompts_depend_on(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("x")
    options = pool_model(
        pool(
            tmp_path,
            *("vllm", "serve", "m", "--chat-template", "t.jinja"),
            *("--chat-template-content-format=openai", "--default-chat-template-kwargs", "{}"),
        )
    ).options
    assert options == EngineOptions(str(tmp_path / "t.jinja"), ContentFormat.PARTS, "{}")
    plain = pool(tmp_path, "vllm", "serve", "m", "--chat-template-content-format", "auto")
    assert pool_model(plain).options == EngineOptions()
    given = pool(tmp_path, "vllm", "serve", "m", "--chat-template", "{{ x }}")
    assert pool_model(given).options.chat_template == "{{ x }}"
