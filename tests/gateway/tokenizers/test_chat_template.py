"""Chat templates: what they get, and what they must not do. That the texts are vLLM's is tested
beside it, in tests/real/test_exact_cache.py."""

from __future__ import annotations

import pickle

import orjson
import pytest
from jinja2 import Environment

from gateway.tokenizers.chat_template import ChatTemplate, text_of_body
from gateway.tokenizers.content_format import content_format_of
from gateway.tokenizers.conversation import ContentFormat, Unrenderable
from tests.gateway.tokenizers.cases import REQUESTS, TEMPLATES


def text(template: str, **request: object) -> str:
    request.setdefault("messages", [{"role": "user", "content": "hi"}])
    return ChatTemplate(template).text(request)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_the_same_in_another_process(name: str) -> None:
    template = pickle.loads(pickle.dumps(ChatTemplate(TEMPLATES[name])))
    rendered = 0
    for request in REQUESTS.values():
        try:
            expected: str | None = template.text(request)
        except Unrenderable:
            expected = None
        assert text_of_body(orjson.dumps(request), template) == expected
        rendered += expected is not None
    assert rendered > 8


def test_what_a_template_gets() -> None:
    calls = [{"id": "1", "function": {"name": "f", "arguments": '{"b": 1, "a": "<é>"}'}}]
    messages = [{"role": "assistant", "content": None, "tool_calls": calls}]
    shown = text("{{ messages[0].tool_calls[0].function.arguments | tojson }}", messages=messages)
    assert shown == '{"b": 1, "a": "<é>"}'
    assert text("{{ a }}{{ b }}", chat_template_kwargs={"a": 1, "b": None}) == "1"
    assert text("{{ add_generation_prompt }}{{ documents }}{{ tools }}") == "TrueNoneNone"
    assert text("{{ enable_thinking }}", reasoning_effort="none") == "False"
    made = ChatTemplate("{{ bos_token }}{{ x }}", None, {"bos_token": "<s>"}, {"x": 3})
    assert made.text({"messages": [{"role": "user", "content": "hi"}]}) == "<s>3"


def test_a_template_for_tools_is_taken_for_requests_with_tools() -> None:
    made = ChatTemplate("plain", "tools {{ tools[0].function.name }}")
    messages = [{"role": "user", "content": "hi"}]
    tool = {"type": "function", "function": {"name": "f"}}
    assert made.text({"messages": messages}) == "plain"
    assert made.text({"messages": messages, "tools": [tool]}) == "tools f"


def test_a_message_that_goes_on_ends_the_text() -> None:
    messages = [{"role": "assistant", "content": "so far  "}]
    asked = {"continue_final_message": True, "add_generation_prompt": False}
    ended = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    assert text(ended, messages=messages, **asked) == "<so far  "
    assert text(ended.replace("m.content", "m.content | trim"), messages=messages, **asked) == (
        "<so far"
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": []},
        {"messages": "hi"},
        {"messages": [{"role": 3, "content": "hi"}]},
        {"messages": [{"role": "user", "content": {"a": 1}}]},
        {"tools": []},
        {"tools": [{"name": "f"}]},
        {"chat_template": "{{ 1 }}"},
        {"chat_template_kwargs": {"messages": []}},
        {"chat_template_kwargs": {"chat_template": "x"}},
        {"chat_template_kwargs": [1]},
        {"add_generation_prompt": "yes"},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"type": "x"}]}]},
    ],
)
def test_what_is_not_known_is_not_guessed(request_: dict[str, object]) -> None:
    with pytest.raises(Unrenderable):
        text("{{ messages[0].content }}", **request_)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ 'a' | nofilter }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_ends_in_no_text(template: str) -> None:
    def rendered() -> None:
        made = ChatTemplate(template)
        made.check()
        made.text({"messages": [{"role": "user", "content": "hi"}]})

    with pytest.raises((Unrenderable, ValueError)):
        rendered()


_MACRO = (
    "{% macro show(x) %}{% for c in x %}{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ show(m.content) }}{% endfor %}"
)
_RENAMED = (
    "{% set x = messages %}{% set y = x[1:] %}{% for m in y %}{% for c in m.content %}"
    "{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{% for c in m['content'] %}{% endfor %}{% endfor %}", True),
        ("{% for m in messages[1:] %}{% for c in m.content|list %}{% endfor %}{% endfor %}", True),
        (
            _RENAMED,
            True,
        ),
        ("{% for content in content %}{% endfor %}", True),
        ("{% for a, b in messages %}{% for c in a.content %}{% endfor %}{% endfor %}", False),
        (
            _MACRO,
            True,
        ),
        ("{% macro show(content) %}{% for c in content %}{% endfor %}{% endmacro %}", False),
        ("{% for m in messages %}{% for c in m.tool_calls %}{% endfor %}{% endfor %}", False),
    ],
)
def test_content_is_a_string_unless_the_template_loops_over_it(template: str, parts: bool) -> None:
    found = content_format_of(Environment(autoescape=True).parse(template))
    assert found is (ContentFormat.PARTS if parts else ContentFormat.STRING)
