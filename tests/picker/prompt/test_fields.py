"""The other fields that the picker reads from a body."""

from __future__ import annotations

import pytest

from picker.prompt.fields import read_fields
from picker.prompt.forms import Form
from picker.prompt.messages import InvalidPrompt


@pytest.mark.parametrize(
    ("form", "body", "tokens"),
    [
        (Form.CHAT, {"max_tokens": 5}, 5),
        (Form.CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, 7),
        (Form.CHAT, {"max_tokens": 5, "max_completion_tokens": -7}, 5),
        (Form.CHAT, {"max_tokens": -1}, None),
        (Form.CHAT, {"max_tokens": "5"}, None),
        (Form.CHAT, {"max_tokens": True}, None),
        (Form.CHAT, {"max_output_tokens": 5}, None),
        (Form.COMPLETIONS, {"max_tokens": 0}, 0),
        (Form.RESPONSES, {"max_output_tokens": 9, "max_tokens": 5}, 9),
        (Form.ANTHROPIC, {"max_tokens": 5}, 5),
        (Form.GENERATE, {"sampling_params": {"max_tokens": 3}}, 3),
        (Form.EMBEDDINGS, {"max_tokens": 5}, None),
        (None, {"max_tokens": 5}, None),
    ],
)
def test_bound_of_the_answer(form: Form | None, body: dict[str, object], tokens: int) -> None:
    assert read_fields(form, body).max_output_tokens == tokens


@pytest.mark.parametrize(
    ("form", "body", "asked"),
    [
        (Form.CHAT, {}, False),
        (Form.CHAT, {"stream_options": {"include_usage": True}}, True),
        (Form.CHAT, {"stream_options": {"include_usage": 1}}, False),
        (Form.CHAT, {"stream_options": None}, False),
        (Form.RESPONSES, {}, True),
        (Form.ANTHROPIC, {}, True),
    ],
)
def test_who_gets_usage_anyway(form: Form, body: dict[str, object], asked: bool) -> None:
    assert read_fields(form, body).include_usage is asked


def test_identity_session_and_salt() -> None:
    fields = read_fields(
        Form.CHAT,
        {
            "model": "m",
            "stream": True,
            "n": 3,
            "user": "ann",
            "prompt_cache_key": "k",
            "cache_salt": "s",
        },
    )
    assert (fields.model, fields.stream, fields.choices) == ("m", True, 3)
    assert (fields.user, fields.session_id, fields.cache_salt) == ("ann", "k", "s")
    anthropic = read_fields(Form.ANTHROPIC, {"metadata": {"user_id": "bob"}})
    assert anthropic.user == "bob"
    assert anthropic.session_id is None


def test_a_missing_or_empty_model_is_left_to_rewrite_rules_a_wrong_one_is_refused() -> None:
    assert read_fields(Form.CHAT, {}).model is None
    assert read_fields(Form.CHAT, {"model": ""}).model is None
    with pytest.raises(InvalidPrompt) as caught:
        read_fields(Form.CHAT, {"model": 5})
    assert caught.value.param == "model"
