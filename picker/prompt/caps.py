"""How many of each thing one request may have, held against its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from picker.caps import Caps
from picker.prompt.messages import InvalidPrompt

MAX_MEMBERS: Final = 1_024
"""Top-level members of a body; no API has a tenth of that."""

_PROMPTS: Final = (
    "prompt",
    "input",
    "token_ids",
    "text",
    "input_ids",
    "documents",
    "queries",
    "items",
    "text_1",
    "text_2",
    "data_1",
    "data_2",
    "lora_path",
    "sampling_params",
)


Cap: TypeAlias = Literal["prompts", "messages", "tools", "media"]
"""Name of a cap on the length of a list."""

_COUNTED: Final[Mapping[str, Cap]] = {
    **dict.fromkeys(_PROMPTS, "prompts"),
    "messages": "messages",
    "tools": "tools",
    "functions": "tools",
}


def require_within(body: Mapping[str, object], caps: Caps) -> None:
    """The lists of a body, by their lengths alone. Raises InvalidPrompt naming list and cap."""
    if len(body) > MAX_MEMBERS:
        raise InvalidPrompt(
            f"the request body has {len(body)} members; at most {MAX_MEMBERS} are accepted", None
        )
    for key in body.keys() & _COUNTED.keys():
        value = body[key]
        if not isinstance(value, list) or not value:
            continue
        cap = _COUNTED[key]
        if cap == "prompts":
            first = value[0]
            if isinstance(first, int | float):  # one list of token ids
                continue
            if isinstance(first, dict) and key == "input":
                cap = "messages"
        require_count(key, len(value), cap, caps)


def require_count(what: str, count: int, cap: Cap, caps: Caps) -> None:
    """Raises InvalidPrompt when ``count`` is over the cap of that name."""
    most: int = getattr(caps, cap)
    if count > most:
        raise InvalidPrompt(
            f"{what} has {count} entries; this gateway accepts at most {most} ({cap})", what
        )
