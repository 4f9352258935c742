"""The few other fields of a request body that the picker reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from picker.prompt.forms import Form
from picker.prompt.messages import InvalidPrompt

_OUTPUT_BOUNDS: dict[Form, tuple[str, ...]] = {
    Form.CHAT: ("max_completion_tokens", "max_tokens"),
    Form.COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    Form.RESPONSES: ("max_output_tokens",),
    Form.ANTHROPIC: ("max_tokens",),
}
"""Parameters that bound the answer, the first one given wins; forms not listed generate nothing."""

_USAGE_ALWAYS = frozenset({Form.RESPONSES, Form.ANTHROPIC})


@dataclass(frozen=True, slots=True)
class RequestFields:
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


def read_fields(form: Form | None, body: Mapping[str, object]) -> RequestFields:
    """Read the fields. Raises InvalidPrompt when ``model`` is there but not a string."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidPrompt("model must be a string", "model")
    return RequestFields(
        model=model or None,
        stream=body.get("stream") is True,
        include_usage=form in _USAGE_ALWAYS or _asks_for_usage(body.get("stream_options")),
        max_output_tokens=_output_bound(form, body),
        choices=_choices(body.get("n")),
        cache_salt=_text(body.get("cache_salt")),
        user=_user(body),
        session_id=_text(body.get("session_id")) or _text(body.get("prompt_cache_key")),
    )


def _output_bound(form: Form | None, body: Mapping[str, object]) -> int | None:
    bounds = _OUTPUT_BOUNDS.get(form, ()) if form is not None else ()
    for key in bounds:
        value = body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    if form is Form.GENERATE:
        sampling = body.get("sampling_params")
        value = sampling.get("max_tokens") if isinstance(sampling, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _asks_for_usage(options: object) -> bool:
    return isinstance(options, dict) and options.get("include_usage") is True


def _choices(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else 1


def _user(body: Mapping[str, object]) -> str | None:
    metadata = body.get("metadata")
    return (
        _text(body.get("user"))
        or _text(body.get("safety_identifier"))
        or (_text(metadata.get("user_id")) if isinstance(metadata, dict) else None)
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
