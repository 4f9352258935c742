"""The LoRA adapters that a body names beside its model, as SGLang takes them: ``lora_path``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from picker.prompt.messages import InvalidPrompt

_PARAM: Final = "lora_path"
_MOST: Final = 64
"""Different names in one body."""


def read_adapters(body: Mapping[str, object]) -> tuple[str, ...]:
    """Each name once, "" for a prompt of several that goes to the base model; empty: none is
    named. Raises InvalidPrompt for what is no name."""
    given = body.get(_PARAM)
    if given is None:
        return ()
    try:
        named = tuple(dict.fromkeys(given if isinstance(given, list) else [given]))
    except TypeError:  # a list or an object in the list
        named = ({},)
    if len(named) > _MOST:
        raise InvalidPrompt(f"{_PARAM} names more than {_MOST} adapters", _PARAM)
    distinct: dict[str, None] = {}
    for name in named:
        if name is not None and not isinstance(name, str):
            raise InvalidPrompt(f"{_PARAM} must be a string or a list of strings", _PARAM)
        distinct[name or ""] = None
    return tuple(distinct) if any(distinct) else ()
