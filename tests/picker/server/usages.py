"""JSON answers, and the token counts in them: for both ports."""

from __future__ import annotations

OPENAI = {
    "prompt_tokens": 70,
    "total_tokens": 90,
    "completion_tokens": 20,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 7},
}
RESPONSES = {
    "input_tokens": 70,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 7},
}
ANTHROPIC = {
    "input_tokens": 6,
    "output_tokens": 20,
    "cache_read_input_tokens": 64,
    "cache_creation_input_tokens": 2,
}
META = {"id": "x", "prompt_tokens": 70, "completion_tokens": 20, "cached_tokens": 64}
TRAP = '\\"usage\\":{"prompt_tokens":1} \\\\" {"usage": ] } \\'
"""What a model may say, as a JSON string has it."""

CASES: list[tuple[object, dict[str, int]]] = [
    (
        {"id": "a", "usage": OPENAI, "prompt_logprobs": [{"1": {"usage": OPENAI}}]},
        {"input": 70, "output": 20, "cached": 64, "reasoning": 7},
    ),
    (
        {"output": [{"usage": {"input_tokens": 1}}], "usage": RESPONSES, "created": 5},
        {"input": 70, "output": 20, "cached": 64, "reasoning": 7},
    ),
    (
        {"content": [{"type": "tool_use", "input": {"usage": {"output_tokens": 0}}}]}
        | {"model": "usage", "usage": ANTHROPIC},
        {"input": 72, "output": 20, "cached": 64},
    ),
    (
        {"usage": {"prompt_tokens": 100, "completion_tokens": 4, "cache_read_input_tokens": 80}},
        {"input": 100, "output": 4, "cached": 80},
    ),
    ({"usage": {"prompt_tokens": 9, "input_tokens": 2, "total_tokens": 9}}, {"input": 9}),
    ({"usage": {"prompt_tokens": -1, "completion_tokens": 99999999999}}, {}),
    ({"text": "usage", "meta_info": META}, {"input": 70, "output": 20, "cached": 64}),
    ({"a": [1, [2, {"b": "]"}]], "usage": {"prompt_tokens": 3}}, {"input": 3}),
    (
        {"usage": {"prompt_tokens": 1}, "x": 1, "model": "usage", "y": {"prompt_tokens": 2}},
        {"input": 1},
    ),
    ({"a": True, "b": None, "c": 1.5, "usage": {"prompt_tokens": 1}}, {"input": 1}),
    ({"choices": [{"usage": OPENAI}], "usage": None}, {}),
    ({"model": "usage", "x": {"prompt_tokens": 9}}, {}),
    ([{"usage": OPENAI}], {}),
    ({"text": TRAP, "usage": {"prompt_tokens": 4}, "more": TRAP}, {"input": 4}),
    ({TRAP: {"prompt_tokens": 5}}, {}),
    ("usage", {}),
]
