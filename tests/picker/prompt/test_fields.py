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
        (Form.CHAT, {"max_tokens": 9000, "max_completion_tokens": 1}, 9000),
        (Form.CHAT, {"max_tokens": 9000, "max_completion_tokens": 0}, 9000),
        (Form.CHAT, {"max_tokens": 0}, None),
        (Form.CHAT, {"max_tokens": -1}, None),
        (Form.CHAT, {"max_tokens": "9000"}, 9000),
        (Form.CHAT, {"max_tokens": 50.0}, 50),
        (Form.CHAT, {"max_tokens": " 5 "}, 5),
        (Form.CHAT, {"max_tokens": 5.5}, None),
        (Form.CHAT, {"max_tokens": "many"}, None),
        (Form.CHAT, {"max_tokens": [5]}, None),
        (Form.CHAT, {"max_tokens": 1e300}, None),
        (Form.CHAT, {"max_output_tokens": 5}, None),
        (Form.COMPLETIONS, {"max_tokens": 0}, 0),
        (Form.COMPLETIONS, {"max_completion_tokens": 1, "max_tokens": 9000}, 9000),
        (Form.COMPLETIONS, {"max_completion_tokens": 1}, None),
        (Form.RESPONSES, {"max_output_tokens": 9, "max_tokens": 5}, 9),
        (Form.ANTHROPIC, {"max_tokens": 5}, 5),
        (Form.GENERATE, {"sampling_params": {"max_tokens": 3}}, 3),
        (Form.GENERATE, {"max_tokens": 3}, None),
        (Form.SGLANG, {"sampling_params": {"max_new_tokens": "3"}}, 3),
        (Form.SGLANG, {"sampling_params": [{"max_new_tokens": 3}, {"max_new_tokens": 9}]}, 9),
        (Form.SGLANG, {"sampling_params": [{"max_new_tokens": 3}, {}]}, None),
        (Form.SGLANG, {"max_new_tokens": 3}, None),
        (Form.EMBEDDINGS, {"max_tokens": 5}, None),
        (None, {"max_tokens": 5}, None),
    ],
)
def test_bound_of_the_answer(form: Form | None, body: dict[str, object], tokens: int) -> None:
    assert read_fields(form, body).max_output_tokens == tokens


@pytest.mark.parametrize(
    ("form", "body", "answers"),
    [
        (Form.CHAT, {}, 1),
        (Form.CHAT, {"n": 3}, 3),
        (Form.CHAT, {"n": "50"}, 50),
        (Form.CHAT, {"n": 50.0}, 50),
        (Form.CHAT, {"n": 0}, 1),
        (Form.CHAT, {"n": None}, 1),
        (Form.CHAT, {"n": 2, "best_of": "20"}, 20),
        (Form.COMPLETIONS, {"best_of": 20}, 20),
        (Form.COMPLETIONS, {"n": 3, "best_of": 1}, 3),
        (Form.COMPLETIONS, {"n": 4, "use_beam_search": True}, 4),
        (Form.GENERATE, {"sampling_params": {"n": 5}}, 5),
        (Form.GENERATE, {"n": 5}, 1),
        (Form.SGLANG, {"sampling_params": [{"n": 2}, {"n": 7}]}, 7),
        (Form.SGLANG, {"sampling_params": "odd"}, 1),
        (Form.ANTHROPIC, {"n": 5}, 1),
        (Form.RESPONSES, {"n": 5}, 1),
    ],
)
def test_number_of_answers(form: Form, body: dict[str, object], answers: int) -> None:
    assert read_fields(form, body).choices == answers


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "true", "TRUE", "yes", "on", "t", "y"])
def test_a_stream_by_every_name_that_engines_take_for_true(value: object) -> None:
    assert read_fields(Form.CHAT, {"stream": value}).stream


@pytest.mark.parametrize("value", [False, 0, None, "false", "off", 2, "2", [], {}, " true "])
def test_no_stream(value: object) -> None:
    assert not read_fields(Form.CHAT, {"stream": value}).stream


@pytest.mark.parametrize(
    ("form", "body", "asked"),
    [
        (Form.CHAT, {}, False),
        (Form.CHAT, {"stream_options": {"include_usage": True}}, True),
        (Form.CHAT, {"stream_options": {"include_usage": 1}}, True),
        (Form.CHAT, {"stream_options": {"include_usage": "false"}}, False),
        (Form.SGLANG, {}, True),
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
