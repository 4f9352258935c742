"""Every prompt form of the API: what means the same is the same, what is wrong is refused."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.prompt.forms import Form, Prompt, form_of, invoked, read_prompt, require_object
from picker.prompt.messages import InvalidPrompt


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/chat/completions", Form.CHAT),
        ("/team-a/v1/chat/completions", Form.CHAT),
        ("/v1/chat/completions/render", Form.CHAT),
        ("/v1/completions", Form.COMPLETIONS),
        ("/v1/completions/render", Form.COMPLETIONS),
        ("/v1/embeddings", Form.EMBEDDINGS),
        ("/v1/responses", Form.RESPONSES),
        ("/v1/messages", Form.ANTHROPIC),
        ("/v1/messages/count_tokens", Form.ANTHROPIC),
        ("/rerank", Form.RERANK),
        ("/v2/rerank", Form.RERANK),
        ("/v1/score", Form.SCORE),
        ("/tokenize", Form.TOKENIZE),
        ("/inference/v1/generate", Form.GENERATE),
        ("/generate", Form.SGLANG),
        ("/team-a/generate", Form.SGLANG),
        ("/api/generate", None),
        ("/generative_scoring", Form.GENERATIVE_SCORE),
        ("/invocations", Form.INVOCATION),
        ("/v1/models", None),
        ("/v1/audio/transcriptions", None),
        ("/v1/images/generations", None),
        ("/", None),
        ("", None),
    ],
)
def test_paths_by_longest_suffix(path: str, form: Form | None) -> None:
    assert form_of(path) is form


@pytest.mark.parametrize(
    ("form", "one", "same"),
    [
        (Form.COMPLETIONS, {"prompt": "abc"}, {"prompt": ["abc"]}),
        (Form.COMPLETIONS, {"prompt": [1, 2]}, {"prompt": [[1, 2]]}),
        (Form.EMBEDDINGS, {"input": "abc"}, {"input": ["abc"]}),
        (Form.EMBEDDINGS, {"input": [1, 2]}, {"input": [[1, 2]]}),
        (Form.SCORE, {"text_1": "q", "text_2": "d"}, {"text_1": ["q"], "text_2": ["d"]}),
        (
            Form.CHAT,
            {"messages": [{"role": "user", "content": "hi"}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        ),
        (
            Form.CHAT,
            {"messages": [{"role": "user", "content": "hi"}]},
            {"messages": [{"role": "user", "content": "hi"}], "tools": [], "temperature": 1},
        ),
        (
            Form.RESPONSES,
            {"input": "hi"},
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
        ),
        (
            Form.ANTHROPIC,
            {"system": "s", "messages": [{"role": "user", "content": "hi"}]},
            {
                "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
                "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            },
        ),
    ],
)
def test_the_same_prompt_in_another_form(
    form: Form, one: dict[str, object], same: dict[str, object]
) -> None:
    assert read_prompt(form, one) == read_prompt(form, same)


def _user(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


def _image(url: str) -> dict[str, object]:
    return _user(
        [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
    )


def _source(data: str) -> dict[str, object]:
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return _user([{"type": "image", "source": source}])


def _tool(name: str) -> dict[str, object]:
    return _user("hi") | {"tools": [{"type": "function", "function": {"name": name}}]}


def _call(arguments: str) -> dict[str, object]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


@pytest.mark.parametrize(
    ("form", "one", "other"),
    [
        (Form.CHAT, _image("http://a/1.png"), _image("http://a/2.png")),
        (Form.CHAT, _image("data:image/png;base64,AAAA"), _image("data:image/png;base64,AAAB")),
        (
            Form.CHAT,
            _user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
            _user([{"type": "input_audio", "input_audio": {"data": "AAAB", "format": "wav"}}]),
        ),
        (Form.ANTHROPIC, _source("AAAA"), _source("AAAB")),
        (Form.CHAT, _tool("get_time"), _tool("get_date")),
        (Form.CHAT, _call("{}"), _call('{"a":1}')),
        (Form.CHAT, _user("hi"), {"messages": [{"role": "system", "content": "hi"}]}),
        (
            Form.CHAT,
            _user("hi"),
            {"messages": [{"role": "user", "name": "ann", "content": "hi"}]},
        ),
        (Form.RESPONSES, {"input": "hi"}, {"input": "hi", "instructions": "be brief"}),
        (Form.RESPONSES, {"input": "hi"}, {"input": "hi", "previous_response_id": "r1"}),
        (Form.COMPLETIONS, {"prompt": ["a", "b"]}, {"prompt": ["ab"]}),
        (Form.COMPLETIONS, {"prompt": [[1], [2]]}, {"prompt": [1, 2]}),
        (
            Form.RERANK,
            {"query": "q", "documents": ["a", "b"]},
            {"query": "q", "documents": ["a", "c"]},
        ),
    ],
)
def test_different_prompts_differ(
    form: Form, one: dict[str, object], other: dict[str, object]
) -> None:
    assert read_prompt(form, one).sequences != read_prompt(form, other).sequences


def test_sizes_of_text_token_ids_and_media() -> None:
    assert read_prompt(Form.COMPLETIONS, {"prompt": ["äb", "c"]}) == Prompt(
        ("äb".encode(), b"c"), text_bytes=4, token_ids=0
    )
    ids = read_prompt(Form.COMPLETIONS, {"prompt": [[1, 2], [65_536]]})
    assert ids.sequences == (b"\1\0\0\0\2\0\0\0", b"\0\0\1\0")
    assert (ids.text_bytes, ids.token_ids) == (0, 3)
    big = "data:image/png;base64," + "A" * 1_000_000
    image = read_prompt(Form.CHAT, _image(big))
    assert image.media_items == 1
    assert image.text_bytes < 100


def test_rerank_and_score_are_one_sequence_a_pair() -> None:
    rerank = read_prompt(Form.RERANK, {"query": "q", "documents": ["a", {"text": "b"}]})
    assert rerank == Prompt((b"a", b"b"), 6, 0, shared=b"q\x1e")
    score = read_prompt(Form.SCORE, {"text_1": ["p", "q"], "text_2": ["a", "b"]})
    assert score.sequences == (b"p\x1ea", b"q\x1eb")
    fan_out = read_prompt(Form.SCORE, {"queries": "q", "documents": ["a", "b"]})
    assert fan_out == rerank


CONVERSATION: list[dict[str, object]] = [
    {"role": "system", "content": "be brief"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": "http://x"},
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
    {"role": "tool", "tool_call_id": "1", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": "why?"},
]


@pytest.mark.parametrize("extra", [{}, {"tools": [{"type": "function"}]}])
def test_each_turn_extends_the_one_before(extra: dict[str, object]) -> None:
    turns = [
        read_prompt(Form.CHAT, {"messages": CONVERSATION[:n], **extra}).sequences[0]
        for n in range(1, len(CONVERSATION) + 1)
    ]
    for before, after in itertools.pairwise(turns):
        assert after.startswith(before)
        assert len(after) > len(before)


def test_turns_extend_in_responses_and_anthropic_too() -> None:
    items: list[dict[str, object]] = [
        {"role": "user", "content": "time?"},
        {"type": "function_call", "id": "f1", "call_id": "c", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "12:00"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "12"}],
        },
    ]
    blocks: list[dict[str, object]] = [
        {"role": "user", "content": "time?"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c", "name": "n", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c",
                    "content": [{"type": "text", "text": "12:00"}],
                    "cache_control": {"type": "ephemeral"},
                }
            ],
        },
    ]
    for form, key, turns in (
        (Form.RESPONSES, "input", items),
        (Form.ANTHROPIC, "messages", blocks),
    ):
        rendered = [
            read_prompt(form, {key: turns[:n]}).sequences[0] for n in range(1, len(turns) + 1)
        ]
        assert all(b.startswith(a) for a, b in itertools.pairwise(rendered))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "hi",
        [],
        ["hi"],
        [{"type": "text", "text": ""}],
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
        [{"type": "image_url", "image_url": "http://x"}, {"type": "text", "text": "?"}],
        [{"type": "file", "file": {"file_id": "f"}}],
        [{"type": "refusal", "refusal": "no"}],
        [{"type": "a_type_of_tomorrow", "stuff": [1, {"x": None}]}],
    ],
)
def test_case_20_message_contents_are_accepted(content: object) -> None:
    body = orjson.loads(orjson.dumps(_user(content)))
    assert read_prompt(Form.CHAT, body).text_bytes > 0


@pytest.mark.parametrize(
    ("form", "body", "param"),
    [
        (Form.CHAT, {}, "messages"),
        (Form.CHAT, {"messages": []}, "messages"),
        (Form.CHAT, {"messages": "hi"}, "messages"),
        (Form.CHAT, {"messages": ["hi"]}, "messages"),
        (Form.CHAT, {"messages": [{"content": "hi"}]}, "messages[0].role"),
        (Form.CHAT, {"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role"),
        (Form.CHAT, _user(5), "messages[0].content"),
        (Form.CHAT, _user({"type": "text"}), "messages[0].content"),
        (Form.CHAT, _user([5]), "messages[0].content"),
        (Form.CHAT, _user([{"type": "text", "text": None}]), "messages[0].content"),
        (Form.CHAT, _user([{"type": 5}]), "messages[0].content"),
        (Form.COMPLETIONS, {}, "prompt"),
        (Form.COMPLETIONS, {"prompt": ""}, "prompt"),
        (Form.COMPLETIONS, {"prompt": []}, "prompt"),
        (Form.COMPLETIONS, {"prompt": [[]]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": ["a", ""]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": ["a", 1]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": [1, 2.5]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": [-1]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": [2**40]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": [[1], 2]}, "prompt"),
        (Form.COMPLETIONS, {"prompt": {"text": "a"}}, "prompt"),
        (Form.EMBEDDINGS, {"input": None}, "input"),
        (Form.EMBEDDINGS, {"input": 7}, "input"),
        (Form.RESPONSES, {"input": ""}, "input"),
        (Form.RESPONSES, {"input": []}, "input"),
        (Form.RESPONSES, {"input": [1]}, "input"),
        (Form.ANTHROPIC, {"system": 5, "messages": [{"role": "user"}]}, "system"),
        (Form.ANTHROPIC, {"system": "s"}, "messages"),
        (Form.RERANK, {"query": "q"}, "documents"),
        (Form.RERANK, {"query": "q", "documents": []}, "documents"),
        (Form.RERANK, {"documents": ["d"]}, "query"),
        (Form.SCORE, {"text_1": "q"}, "text_2"),
        (Form.SCORE, {"text_1": ["p", "q"], "text_2": ["d"]}, "text_1"),
        (Form.TOKENIZE, {}, "prompt"),
        (Form.GENERATE, {"token_ids": []}, "token_ids"),
    ],
)
def test_wrong_types_and_empties_are_refused_with_the_parameter(
    form: Form, body: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidPrompt) as caught:
        read_prompt(form, body)
    assert caught.value.param == param
    assert caught.value.message


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_must_be_an_object(body: object) -> None:
    with pytest.raises(InvalidPrompt, match="must be a JSON object"):
        require_object(body)


def test_nesting_as_deep_as_json_allows_is_an_error_of_the_client() -> None:
    deep = b'{"messages":[{"role":"user","content":[' + b'{"type":"tool_result","content":[' * 400
    deep += b'"x"' + b"]}" * 400 + b"]}]}"
    with pytest.raises(InvalidPrompt, match="nested too deeply"):
        read_prompt(Form.ANTHROPIC, orjson.loads(deep))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "image_url", "url", "source", "data", "name"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    form=st.sampled_from(Form),
    body=st.dictionaries(
        st.sampled_from(
            [
                "messages",
                "prompt",
                "input",
                "system",
                "tools",
                "query",
                "documents",
                "text_1",
                "text_2",
                "token_ids",
                "instructions",
                "prompt_embeds",
            ]
        ),
        JSON,
    ),
)
def test_any_json_is_a_prompt_or_invalid(form: Form, body: dict[str, object]) -> None:
    try:
        form = invoked(body) if form is Form.INVOCATION else form
        prompt = read_prompt(form, body)
    except InvalidPrompt:
        return
    assert prompt.sequences


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ({"messages": []}, Form.CHAT),
        ({"prompt": "a"}, Form.COMPLETIONS),
        ({"prompt_embeds": "AA=="}, Form.COMPLETIONS),
        ({"input": "a", "messages": None}, Form.EMBEDDINGS),
        ({"query": "q", "documents": ["d"]}, Form.RERANK),
        ({"queries": "q", "documents": ["d"]}, Form.SCORE),
        ({"text_1": "a", "text_2": "b"}, Form.SCORE),
        ({"data_1": "a", "data_2": "b"}, Form.SCORE),
    ],
)
def test_an_invocation_is_what_its_body_is(body: dict[str, object], form: Form) -> None:
    assert invoked(body) is form


@pytest.mark.parametrize("body", [{}, {"messages": [], "prompt": "a"}, {"prompt": "a", "input": 1}])
def test_an_invocation_that_may_be_several_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(InvalidPrompt, match="one API"):
        invoked(body)


def test_sglangs_own_prompts() -> None:
    assert read_prompt(Form.SGLANG, {"text": ["ab", "c"]}) == Prompt((b"ab", b"c"), 3, 0)
    assert read_prompt(Form.SGLANG, {"text": None, "input_ids": [[1, 2], [3]]}).token_ids == 3
    media = {"text": "a", "image_data": [["x", "y"], None], "audio_data": "z"}
    assert read_prompt(Form.SGLANG, media).media_items == 3
    wrong: list[dict[str, object]] = [{}, {"text": ""}, {"input_ids": []}, {"text": 5}]
    for body in wrong:
        with pytest.raises(InvalidPrompt):
            read_prompt(Form.SGLANG, body)


def test_generative_scoring_puts_the_query_to_each_item() -> None:
    texts = {"query": "Q", "items": ["ab", "c"]}
    assert read_prompt(Form.GENERATIVE_SCORE, texts) == Prompt((b"ab", b"c"), 5, 0, shared=b"Q")
    turned = read_prompt(Form.GENERATIVE_SCORE, {**texts, "item_first": True})
    assert turned == Prompt((b"ab", b"c"), 5, 0, shared=b"Q", shared_first=False)
    ids = read_prompt(Form.GENERATIVE_SCORE, {"query": [1, 2], "items": [[3], [4, 5]]})
    assert (ids.token_ids, ids.text_bytes) == (7, 0)
    wrong: list[dict[str, object]] = [
        {"query": ["a", "b"], "items": ["c"]},
        {"query": "a", "items": [[1]]},
        {"query": [1], "items": ["a"]},
        {"query": "a"},
    ]
    for body in wrong:
        with pytest.raises(InvalidPrompt):
            read_prompt(Form.GENERATIVE_SCORE, body)


HUGE = "x" * 9_000
SHOWN = {"url": "data:image/png;base64,AA=="}


@pytest.mark.parametrize(
    ("part", "media_items", "least_bytes"),
    [
        ({"type": "image_url", "image_url": SHOWN, "text": ""}, 1, 0),
        ({"image_url": SHOWN, "text": "a"}, 1, 0),
        ({"input_audio": {"data": "AA==", "format": "wav"}, "text": "a"}, 1, 0),
        ({"type": "input_audio", "input_audio": {"data": "AA=="}, "refusal": "a"}, 1, 0),
        ({"type": "image", "source": {"type": "base64", "data": "AA=="}, "text": "a"}, 1, 0),
        ({"type": "tool_result", "tool_use_id": "t", "content": HUGE, "text": ""}, 0, 9_000),
        ({"type": "tool_use", "name": "f", "input": {"a": HUGE}, "thinking": "a"}, 0, 9_000),
        ({"type": "unheard_of", "payload": HUGE, "text": "a"}, 0, 9_000),
        ({"type": "text", "text": HUGE}, 0, 9_000),
        ({"text": HUGE}, 0, 9_000),
        ({"type": "thinking", "thinking": HUGE, "signature": "s"}, 0, 9_000),
    ],
)
def test_a_text_hides_nothing_that_is_beside_it(
    part: dict[str, object], media_items: int, least_bytes: int
) -> None:
    body = {"messages": [{"role": "user", "content": [part]}]}
    for form in (Form.CHAT, Form.ANTHROPIC):
        prompt = read_prompt(form, body)
        assert prompt.media_items == media_items
        assert least_bytes <= prompt.text_bytes <= least_bytes + 100


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (Form.CHAT, {"messages": [{"role": "assistant", "content": "a", key: HUGE}]})
        for key in ("reasoning_content", "reasoning")
    ]
    + [
        (Form.CHAT, {"messages": [{"role": "developer", "tools": [{"description": HUGE}]}]}),
        (
            Form.RESPONSES,
            {"input": [{"type": "function_call_output", "role": "user", "output": HUGE}]},
        ),
        (
            Form.ANTHROPIC,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "document", "source": {"type": "text", "data": HUGE}}],
                    }
                ]
            },
        ),
    ],
)
def test_what_templates_render_beside_the_content_counts(
    form: Form, body: dict[str, object]
) -> None:
    prompt = read_prompt(form, body)
    assert 9_000 <= prompt.text_bytes < 9_100
    assert prompt.media_items == 0


MESSAGES = [{"role": "user", "content": HUGE}]


@pytest.mark.parametrize(
    ("form", "body", "param"),
    [
        (Form.SGLANG, {"text": "a", "input_ids": [1] * 999}, "input_ids"),
        (Form.SGLANG, {"text": "a", "input_embeds": [[0.5]] * 999}, "input_embeds"),
        (Form.SGLANG, {"input_ids": [1], "input_embeds": [[0.5]] * 999}, "input_embeds"),
        (Form.EMBEDDINGS, {"input": "a", "messages": MESSAGES}, "messages"),
        (Form.COMPLETIONS, {"prompt_embeds": []}, "prompt"),
    ],
)
def test_of_two_prompts_none_is_read_for_the_other(
    form: Form, body: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidPrompt) as refused:
        read_prompt(form, body)
    assert refused.value.param == param


def test_embeddings_beside_a_prompt_count() -> None:
    prompt = read_prompt(Form.COMPLETIONS, {"prompt": "abc", "prompt_embeds": ["AA==", "AQ=="]})
    assert (prompt.text_bytes, prompt.media_items) == (3, 2)
    assert read_prompt(Form.EMBEDDINGS, {"input": None, "messages": MESSAGES}).text_bytes > 9_000
