"""Which folder a model's tokens are made with, and when they are not believed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer

from gateway.tokenizers.load import TokenizerError
from gateway.tokenizers.model_folder import EngineOptions, read_model
from gateway.tokenizers.own import OwnTokenizers, PoolModel
from picker.bodies.apart import Here
from picker.prompt.forms import Form
from picker.request.claim import Claim
from picker.seams.own_tokens import Asked
from tests.gateway.tokenizers.folders import folder

POOL, MODEL = "main", "m"
MESSAGES = [{"role": "user", "content": "the gateway counts"}]


class Place:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.own = OwnTokenizers(Here(), lambda: self.now_s)

    async def ids(self, asked: Asked) -> list[int] | None:
        made = self.own.ids(asked)
        while self.own._loading:
            await asyncio.gather(*self.own._loading)
            made = self.own.ids(asked)
        if isinstance(made, asyncio.Future):
            made = await made
        return None if made is None else np.frombuffer(made, np.uint32).tolist()


def asked(text: str | None = None, *, root: Path | None = None, **document: object) -> Asked:
    form = Form.CHAT if text is None else Form.COMPLETIONS
    document.setdefault("messages", MESSAGES)
    size = len(text or "")
    return Asked(POOL, MODEL, str(root) if root else None, form, document, text, size)


def test_the_packages_are_optional() -> None:
    blocked = "for name in ('jinja2', 'tiktoken', 'tokenizers'): sys.modules[name] = None"
    imported = "import gateway.tokenizers.own, gateway.run.pool_models"
    subprocess.run([sys.executable, "-c", f"import sys\n{blocked}\n{imported}"], check=True)


async def test_completions_begin_as_the_model_says_and_conversations_by_their_template(
    tmp_path: Path,
) -> None:
    place, root = Place(), folder(tmp_path, "llama3")
    whole = Tokenizer.from_file(str(root / "tokenizer.json"))
    assert await place.ids(asked("tokens of", root=root)) == whole.encode("tokens of").ids
    assert await place.ids(asked("tokens of", root=root, add_special_tokens=False)) == (
        whole.encode("tokens of", add_special_tokens=False).ids
    )
    text = "<|im_start|>user\nthe gateway counts<|im_end|>\n<|im_start|>assistant\n"
    expected = whole.encode(text, add_special_tokens=False).ids
    assert await place.ids(asked(root=root)) == expected
    long = "word " * 2_000
    assert await place.ids(asked(long, root=root)) == whole.encode(long).ids
    place.own.close()


async def test_a_body_that_is_long_to_read_is_rendered_apart(tmp_path: Path) -> None:
    place, root = Place(), folder(tmp_path)
    light = asked(root=root)
    body = orjson.dumps({"messages": MESSAGES})
    heavy = Asked(POOL, MODEL, str(root), Form.CHAT, {}, None, len(body), body)
    assert await place.ids(heavy) == await place.ids(light) is not None
    broken = Asked(POOL, MODEL, str(root), Form.CHAT, {}, None, 1, b"{")
    assert await place.ids(broken) is None


async def test_the_configuration_goes_before_the_command_and_that_before_the_replicas(
    tmp_path: Path,
) -> None:
    named, started, said = (
        folder(tmp_path / name, template=name) for name in ("named", "started", "said")
    )

    async def text(place: Place, root: Path | None = said) -> str:
        ids = await place.ids(asked(root=root))
        whole = Tokenizer.from_file(str(said / "tokenizer.json"))
        return "" if ids is None else whole.decode(ids)

    place = Place()
    assert await text(place) == "said"
    assert await text(place, None) == ""
    assert await text(place, Path("relative")) == ""
    assert await text(place, tmp_path / "nowhere") == ""
    place.own.configure((), {POOL: PoolModel(started)})
    assert await text(place) == "started"
    options = EngineOptions("{{ 'given' }}")
    place.own.configure((), {POOL: PoolModel(started, options)})
    assert await text(place) == "given"
    place.own.configure([("m*", named / "tokenizer.json")], {POOL: PoolModel(started)})
    assert await text(place) == "named"
    place.own.configure([("m*", named / "some.tiktoken")], {POOL: PoolModel(started)})
    assert await text(place) == ""


async def test_engines_that_count_otherwise_are_asked_instead(tmp_path: Path) -> None:
    place, root = Place(), folder(tmp_path)
    right = await place.ids(asked(root=root))
    assert right
    claim = Claim(POOL, MODEL, Form.CHAT, len(right))
    for number in range(100):  # now and then a wrong one is no reason
        place.own.heard(claim, "a:1", len(right) + (number % 5 == 0))
    assert await place.ids(asked(root=root)) == right
    for _ in range(10):
        place.own.heard(claim, "b:1", 7)
        place.own.heard(claim, "c:1", len(right))
    assert await place.ids(asked(root=root)) == right  # one of three says so
    for _ in range(10):
        place.own.heard(claim, "a:1", 7)
    assert place.own.doubted(POOL)
    assert await place.ids(asked(root=root)) is None
    assert await place.ids(asked("text", root=root)) is not None  # of that form only
    place.now_s += 601
    assert not place.own.doubted(POOL)
    assert await place.ids(asked(root=root)) == right


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.json", '{"model_type": "gpt_oss"}', "by its engine only"),
        ("tekken.json", "{}", "by its engine only"),
        ("tokenizer.json", "{}", "no tokenizer.json"),
        ("tokenizer_config.json", "{", "tokenizer_config.json"),
        ("chat_template.jinja", "{% for %}", "cannot be read"),
    ],
)
def test_folders_that_cannot_be_used_say_why(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    folder(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(TokenizerError, match=said):
        read_model(tmp_path, EngineOptions())


def test_templates_come_from_any_of_their_places(tmp_path: Path) -> None:
    def source(kind: str = "default") -> str | None:
        template = read_model(tmp_path, EngineOptions()).template
        assert template is not None
        return template.source if kind == "default" else template.with_tools

    folder(tmp_path, template="config")
    assert source() == "config"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert source() == "file"
    several = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(
        orjson.dumps({"chat_template": several}).decode()
    )
    assert (source(), source("tool_use")) == ("d", "t")
    folder(tmp_path, template=None)
    assert read_model(tmp_path, EngineOptions()).template is None
    given = tmp_path / "given.jinja"
    given.write_text("of a file")
    template = read_model(tmp_path, EngineOptions(str(given), None, '{"x": 1}')).template
    assert template is not None
    assert (template.source, template.defaults) == ("of a file", {"x": 1})
