"""Work and memory for a body are linear in its bytes, with a small factor; counted, not timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import pytest

from loadtests.bench.hostile import HostileBody, corpus
from picker.bodies.cost import is_heavy
from picker.bodies.reading import Reading, read_heavy
from picker.caps import Caps
from picker.prompt.blocks import MAX_BLOCKS, hash_blocks
from picker.prompt.forms import form_of
from picker.request.answer import Answer, Decision
from picker.settings import RewriteRule, RewriteTarget
from tests.picker.fleet import MODEL, ask, fleet, head

P = ParamSpec("P")
T = TypeVar("T")
SIZE = 300_000
SPARSE = ("one long text", "one long text of escapes", "many prompts of 300 bytes")
"""These are read fast: only of some MB it takes long."""
CAPS = Caps()
_CHAT = "/v1/chat/completions"
_FILE = '{"type":"file","file":"x"}'
CORPUS = pytest.mark.parametrize("hostile", list(corpus("alias")), ids=lambda hostile: hostile.name)


class Counted:
    """Works in place, and remembers on how many bodies."""

    def __init__(self) -> None:
        self.bodies = 0

    async def run(
        self,
        work: Callable[Concatenate[bytes, P], T],
        body: bytes,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self.bodies += 1
        return work(body, *args, **kwargs)


@CORPUS
def test_a_prompt_is_no_larger_than_its_body(hostile: HostileBody) -> None:
    body = hostile.make(SIZE)
    outcome = read_heavy(body, form_of(hostile.path), CAPS)
    if not isinstance(outcome, Reading) or outcome.prompt is None:
        return
    prompt = outcome.prompt
    held = len(prompt.shared) + sum(map(len, prompt.sequences))
    assert held <= 4 * len(body), "a token id takes four bytes, and two in a body"
    assert len(prompt.sequences) <= CAPS.prompts
    assert prompt.media_items <= CAPS.media
    blocks = hash_blocks(prompt, model=MODEL)
    assert sum(map(len, blocks.chains)) <= min(MAX_BLOCKS, held / 256)
    assert len(str(outcome.document)) < 200_000, "what comes back from another process"


@CORPUS
async def test_what_is_long_to_read_is_not_read_on_the_loop(hostile: HostileBody) -> None:
    apart = Counted()
    made = fleet(apart=apart)
    made.configure(rewrites=[RewriteRule("alias", (RewriteTarget(MODEL),))])
    body = hostile.make(3_000_000 if hostile.name in SPARSE else 600_000)
    outcome = await ask(made, body, head(hostile.path))
    assert is_heavy(body)
    assert apart.bodies >= 1
    if isinstance(outcome, Decision):
        assert outcome.body is None or len(outcome.body) <= len(body) + 100
    else:
        assert isinstance(outcome, Answer)
        assert outcome.status in (400, 413)


def test_an_ordinary_body_is_read_on_the_loop() -> None:
    text = b"The quick brown fox, as ever, jumps over the lazy dog; (so it goes). " * 5_000
    assert not is_heavy(b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % text)


@pytest.mark.parametrize(
    ("path", "member", "most", "cap"),
    [
        ("/v1/completions", '"prompt":["a","b","c"]', {"prompts": 2}, "prompts"),
        ("/v1/completions", '"prompt":[[1],[2],[3]]', {"prompts": 2}, "prompts"),
        ("/v1/embeddings", '"input":["a","b","c"]', {"prompts": 2}, "prompts"),
        ("/v1/rerank", '"query":"q","documents":["a","b","c"]', {"prompts": 2}, "prompts"),
        ("/v1/score", '"text_1":"q","text_2":["a","b","c"]', {"prompts": 2}, "prompts"),
        ("/generate", '"text":"q","lora_path":["a","b","c"]', {"prompts": 2}, "prompts"),
        ("/v1/responses", '"input":[{"type":"a"},{"type":"b"}]', {"messages": 1}, "messages"),
        (_CHAT, '"messages":[{"role":"a"},{"role":"b"}]', {"messages": 1}, "messages"),
        (_CHAT, '"messages":[{"role":"a"}],"tools":[{},{}]', {"tools": 1}, "tools"),
        (_CHAT, f'"messages":[{{"role":"a","content":[{_FILE},{_FILE}]}}]', {"media": 1}, "media"),
        ("/generate", '"text":"q","image_data":[["a"],"b"]', {"media": 1}, "media"),
        ("/v1/completions", '"prompt":[1,2,3]', {"values": 3}, "values"),
    ],
)
def test_a_refusal_names_its_cap(path: str, member: str, most: dict[str, int], cap: str) -> None:
    body = b'{"model":"m",%s}' % member.encode()
    outcome = read_heavy(body, form_of(path), Caps(**most))
    assert not isinstance(outcome, Reading)
    assert cap in outcome.message
    assert isinstance(read_heavy(body, form_of(path), CAPS), Reading)


def test_one_prompt_of_many_token_ids_is_one_prompt() -> None:
    outcome = read_heavy(b'{"prompt":[1,2,3,4]}', form_of("/v1/completions"), Caps(prompts=1))
    assert isinstance(outcome, Reading)


def test_values_inside_of_texts_do_not_count() -> None:
    body = b'{"model":"m","prompt":"[[[,,,\\"[[[,,,"}'
    assert isinstance(read_heavy(body, form_of("/v1/completions"), Caps(values=2)), Reading)
