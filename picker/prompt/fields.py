"""The few other fields of a request body that the picker reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from pydantic import TypeAdapter, ValidationError

from picker.prompt.forms import Form
from picker.prompt.messages import InvalidPrompt

_OUTPUT_BOUNDS: Final[dict[Form, tuple[str, ...]]] = {
    Form.CHAT: ("max_completion_tokens", "max_tokens"),
    Form.COMPLETIONS: ("max_tokens",),  # engines ignore max_completion_tokens there
    Form.RESPONSES: ("max_output_tokens",),
    Form.ANTHROPIC: ("max_tokens",),
    Form.GENERATE: ("max_tokens",),
    Form.SGLANG: ("max_new_tokens",),
}
"""Parameters that bound the answer; forms not listed generate nothing. Of two the largest counts:
vLLM takes ``max_completion_tokens`` unless it is 0, SGLang ``max_tokens`` unless it is 0."""
_SAMPLED: Final = frozenset({Form.GENERATE, Form.SGLANG})
"""They have bound and number of answers in ``sampling_params``."""
_CHOOSES: Final = frozenset({Form.CHAT, Form.COMPLETIONS, *_SAMPLED})
"""They have a number of answers, or of beams: ``n``."""
_USAGE_ALWAYS: Final = frozenset({Form.RESPONSES, Form.ANTHROPIC, Form.SGLANG})
_IN_BACKGROUND: Final = frozenset({Form.RESPONSES, Form.SGLANG})
_MOST: Final = 2**53
"""A larger number counts as this one: it is summed in floats."""
_INTEGER: Final = TypeAdapter(int)
_BOOLEAN: Final = TypeAdapter(bool)


class RequestFields(Struct, frozen=True):
    """Fields as the client gave them; what is absent, or ignored as engines ignore it, is None."""

    model: str | None
    stream: bool
    include_usage: bool
    """The client asked for a usage chunk, or its API always sends usage."""
    max_output_tokens: int | None
    """Declared bound of each answer, tokens."""
    choices: int
    """Answers asked for (``n``), at least 1."""
    cache_salt: str | None
    user: str | None
    """``user``, ``safety_identifier``, or Anthropic's ``metadata.user_id``."""
    session_id: str | None
    """``session_id`` or OpenAI's ``prompt_cache_key``."""
    agent_id: str | None = None
    """``metadata.agent_id``."""
    background: bool = False
    """The engine goes on with it when the client has left."""


def read_fields(form: Form | None, body: Mapping[str, object]) -> RequestFields:
    """Read the fields. Raises InvalidPrompt when ``model`` is there but not a string."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidPrompt("model must be a string", "model")
    sampling, metadata = _sampling(form, body), body.get("metadata")
    return RequestFields(
        model=model or None,
        stream=_flag(body.get("stream")),
        include_usage=form in _USAGE_ALWAYS or _asks_for_usage(body.get("stream_options")),
        max_output_tokens=_output_bound(form, sampling),
        choices=_choices(form, sampling),
        cache_salt=_text(body.get("cache_salt")),
        user=_user(body),
        session_id=_text(body.get("session_id")) or _text(body.get("prompt_cache_key")),
        agent_id=_text(metadata.get("agent_id")) if isinstance(metadata, dict) else None,
        background=form in _IN_BACKGROUND and _flag(body.get("background")),
    )


def _sampling(form: Form | None, body: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    """What declares bound and number of answers; several where each prompt has its own."""
    if form not in _SAMPLED:
        return (body,)
    given = body.get("sampling_params")
    each = given if isinstance(given, list) else [given]
    return [one for one in each if isinstance(one, dict)]


def _output_bound(form: Form | None, sampling: Sequence[Mapping[str, object]]) -> int | None:
    """The largest of several; None when one is not declared."""
    keys = _OUTPUT_BOUNDS.get(form, ()) if form is not None else ()
    largest = None
    for one in sampling:
        bound = _bound(one, keys)
        if bound is None:
            return None
        largest = bound if largest is None else max(largest, bound)
    return largest


def with_output_bound(
    form: Form | None, body: Mapping[str, object], tokens: int
) -> dict[str, object]:
    """The members of the body that must be changed so that each answer has at most so many
    tokens, where the body declares more."""
    keys = _OUTPUT_BOUNDS.get(form, ()) if form is not None else ()
    if form not in _SAMPLED:
        return _lowered(body, keys, tokens)
    given = body.get("sampling_params")
    if isinstance(given, dict):
        return {"sampling_params": {**given, **_lowered(given, keys, tokens)}}
    if isinstance(given, list):
        lowered = [
            {**one, **_lowered(one, keys, tokens)} if isinstance(one, dict) else one
            for one in given
        ]
        return {"sampling_params": lowered}
    return {}


def _lowered(
    parameters: Mapping[str, object], keys: Sequence[str], tokens: int
) -> dict[str, object]:
    return {key: tokens for key in keys if (_whole(parameters.get(key)) or 0) > tokens}


def _bound(parameters: Mapping[str, object], keys: Sequence[str]) -> int | None:
    if len(keys) == 1:
        return _whole(parameters.get(keys[0]))
    # Engines that look at two take a 0 for none.
    return max([_whole(parameters.get(key)) or 0 for key in keys], default=0) or None


def _choices(form: Form | None, sampling: Sequence[Mapping[str, object]]) -> int:
    """Answers that are generated: with ``best_of`` more than are shown."""
    if form not in _CHOOSES:
        return 1
    most = 1
    for one in sampling:
        most = max(most, _whole(one.get("n")) or 1, _whole(one.get("best_of")) or 1)
    return most


def _asks_for_usage(options: object) -> bool:
    return isinstance(options, dict) and _flag(options.get("include_usage"))


def _whole(value: object) -> int | None:
    """A number as engines read it: pydantic takes ``"50"`` and ``50.0`` for one. None for what is
    none, or negative."""
    if value is None:
        return None
    if type(value) is int:  # as nearly always, and a bool is none
        number = value
    else:
        try:
            number = _INTEGER.validate_python(value)
        except ValidationError:
            return None
    return min(number, _MOST) if number >= 0 else None


def _flag(value: object) -> bool:
    """A flag as engines read it: pydantic takes ``1``, ``"true"``, ``"yes"`` and the like for
    one."""
    if value is None or isinstance(value, bool):
        return bool(value)
    try:
        return _BOOLEAN.validate_python(value)
    except ValidationError:
        return False


def _user(body: Mapping[str, object]) -> str | None:
    metadata = body.get("metadata")
    return (
        _text(body.get("user"))
        or _text(body.get("safety_identifier"))
        or (_text(metadata.get("user_id")) if isinstance(metadata, dict) else None)
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
