"""Prompt forms: from a parsed request body to the bytes that stand for its prompt.

The bytes are not what the engine's chat template renders, but they change where it changes: in
the same order, with nothing after the last message, so that the next turn of a conversation
extends the bytes of the turn before.
"""

from __future__ import annotations

import array
import enum
import operator
import sys
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from picker.caps import DEFAULT_CAPS, Caps
from picker.prompt.caps import require_count, require_within
from picker.prompt.messages import (
    InvalidPrompt,
    Rendering,
    as_bytes,
    render_items,
    render_messages,
    render_preamble,
)

Body = Mapping[str, object]
"""A JSON object as orjson returns it."""

TOKEN_ID_BYTES = 4
"""Width of one token id in ``Prompt.sequences``."""


class Prompt(Struct, frozen=True):
    """One or several sequences that the engine prefills independently of each other."""

    sequences: tuple[bytes, ...]
    """UTF-8 text, or token ids as little-endian uint32 when ``token_ids`` is not 0."""
    text_bytes: int
    """Bytes of text over all sequences, 0 for token ids."""
    token_ids: int
    """Token ids over all sequences, 0 for text."""
    media_items: int = 0
    """Images, audio clips and the like, whose tokens the text does not show."""
    shared: bytes = b""
    """A part of every sequence that is kept once: the query of many documents. The numbers above
    count it for each of them."""
    shared_first: bool = True
    """Sequences begin with it, else they end with it."""


class Form(enum.Enum):
    """Shape of a request body."""

    __hash__ = object.__hash__  # Enum's own is written in Python

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"
    RERANK = "rerank"
    SCORE = "score"
    TOKENIZE = "tokenize"
    GENERATE = "generate"
    SGLANG = "sglang"
    """SGLang's own API."""
    GENERATIVE_SCORE = "generative_score"
    INVOCATION = "invocation"
    """SageMaker's: one of the others, depending on its body."""


_FORM_BY_SUFFIX: dict[str, Form | None] = {
    "/chat/completions": Form.CHAT,
    "/chat/completions/render": Form.CHAT,
    "/completions": Form.COMPLETIONS,
    "/completions/render": Form.COMPLETIONS,
    "/embeddings": Form.EMBEDDINGS,
    "/pooling": Form.EMBEDDINGS,
    "/classify": Form.EMBEDDINGS,
    "/responses": Form.RESPONSES,
    "/messages": Form.ANTHROPIC,
    "/messages/count_tokens": Form.ANTHROPIC,
    "/rerank": Form.RERANK,
    "/score": Form.SCORE,
    "/tokenize": Form.TOKENIZE,
    "/inference/v1/generate": Form.GENERATE,
    "/generate": Form.SGLANG,
    "/api/generate": None,  # Ollama's
    "/generative_scoring": Form.GENERATIVE_SCORE,
    "/invocations": Form.INVOCATION,
}
_SUFFIXES: dict[str, list[str]] = {}
"""By their last part, the longest first."""
for _suffix in sorted(_FORM_BY_SUFFIX, key=len, reverse=True):
    _SUFFIXES.setdefault(_suffix[_suffix.rindex("/") :], []).append(_suffix)


def form_of(path: str) -> Form | None:
    """Form of the body sent to ``path``, by longest suffix; None = opaque."""
    for suffix in _SUFFIXES.get(path[path.rfind("/") :], ()):
        if path.endswith(suffix):
            return _FORM_BY_SUFFIX[suffix]
    return None


_NAMED_PATHS = ("/v1/audio/", "/v1/images/", "/detokenize")


def names_model(path: str) -> bool:
    """Whether a request to ``path``, which has no form, names a model all the same."""
    return path.startswith(_NAMED_PATHS)


_INVOCATIONS = {
    "messages": Form.CHAT,
    "prompt": Form.COMPLETIONS,
    "prompt_embeds": Form.COMPLETIONS,
    "input": Form.EMBEDDINGS,
    "query": Form.RERANK,
    "text_1": Form.SCORE,
    "queries": Form.SCORE,
    "data_1": Form.SCORE,
}


def invoked(body: Body) -> Form:
    """The form of an invocation's body. Raises InvalidPrompt when it could be none or several:
    which one the engine takes, it decides by details that are not ours to know."""
    forms = {form for key, form in _INVOCATIONS.items() if body.get(key) is not None}
    if len(forms) != 1:
        raise InvalidPrompt(
            "an invocation must have the prompt of one API: messages, prompt, input, query or"
            " text_1",
            None,
        )
    return forms.pop()


def require_object(body: object) -> dict[str, object]:
    """The body as a JSON object. Raises InvalidPrompt for any other JSON value."""
    if not isinstance(body, dict):
        raise InvalidPrompt("the request body must be a JSON object", None)
    return body


def read_prompt(form: Form, body: Body, caps: Caps = DEFAULT_CAPS) -> Prompt:
    """The prompt of a body; an invocation's by the form that it is `invoked` as. Takes time and
    memory in proportion to the body. Raises InvalidPrompt naming the parameter that is wrong,
    empty, or over a cap."""
    require_within(body, caps)
    prompt = _READERS[form](body)
    require_count("media", prompt.media_items, "media", caps)
    return prompt


def _chat(body: Body) -> Prompt:
    out = Rendering()
    render_preamble(body, out)
    render_messages(body.get("messages"), out)
    return _text(out)


def _anthropic(body: Body) -> Prompt:
    out = Rendering()
    render_preamble(body, out)
    system = body.get("system")
    if system is not None:
        out.turn("system", None)
        out.content(system, "system")
    render_messages(body.get("messages"), out)
    return _text(out)


def _responses(body: Body) -> Prompt:
    out = Rendering()
    render_preamble(body, out)
    instructions = body.get("instructions")
    if instructions is not None:
        out.turn("system", None)
        out.content(instructions, "instructions")
    given = body.get("input")
    if isinstance(given, str) and given:
        out.turn("user", None)
        out.content(given, "input")
    elif isinstance(given, list) and given:
        render_items(given, out)
    else:
        raise InvalidPrompt("input must be a string or a list of items, not empty", "input")
    return _text(out)


def _completions(body: Body) -> Prompt:
    given = body.get("prompt_embeds")
    embeds = given if isinstance(given, list) else [] if given is None else [given]
    if body.get("prompt") is not None:
        # vLLM answers both.
        return replace(_sequences(body["prompt"], "prompt"), media_items=len(embeds))
    if not embeds:
        return _sequences(None, "prompt")
    out = Rendering()
    for one in embeds:
        if not isinstance(one, str):
            raise InvalidPrompt("prompt_embeds must be base64 strings", "prompt_embeds")
        out.media(one)
    return _text(out)


def _require_one(body: Body, *params: str) -> None:
    """Raises InvalidPrompt when there are several: engines differ in which one they read."""
    given = [param for param in params if body.get(param) is not None]
    if len(given) > 1:
        raise InvalidPrompt(f"{given[0]} must not be given together with {given[1]}", given[1])


def _embeddings(body: Body) -> Prompt:
    _require_one(body, "input", "messages")
    if body.get("input") is None and "messages" in body:
        return _chat(body)
    return _sequences(body.get("input"), "input")


def _tokenize(body: Body) -> Prompt:
    if "messages" in body:
        return _chat(body)
    return _sequences(body.get("prompt"), "prompt")


def _generate(body: Body) -> Prompt:
    return _sequences(body.get("token_ids"), "token_ids")


def _sglang(body: Body) -> Prompt:
    _require_one(body, "text", "input_ids", "input_embeds")
    if body.get("text") is not None:
        prompt = _sequences(body["text"], "text")
    elif body.get("input_ids") is not None:
        prompt = _sequences(body["input_ids"], "input_ids")
    else:
        raise InvalidPrompt("text or input_ids must be given", "text")
    media = sum(_count_items(body.get(key)) for key in ("image_data", "audio_data", "video_data"))
    return replace(prompt, media_items=media)


def _count_items(value: object) -> int:
    """Media of one prompt or of several: leaves of nested lists."""
    count, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, list):
            rest.extend(one)
        else:
            count += one is not None
    return count


def _generative_score(body: Body) -> Prompt:
    """One sequence for each item, with the query before or after it."""
    query, items = _sequences(body.get("query"), "query"), _sequences(body.get("items"), "items")
    if len(query.sequences) != 1 or bool(query.token_ids) != bool(items.token_ids):
        raise InvalidPrompt("query must be one text or list of token ids, as items are", "query")
    (first,) = query.sequences
    count = len(items.sequences)
    return Prompt(
        items.sequences,
        count * query.text_bytes + items.text_bytes,
        count * query.token_ids + items.token_ids,
        shared=first,
        shared_first=body.get("item_first") is not True,
    )


def _rerank(body: Body) -> Prompt:
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(documents, list) or not documents:
        raise InvalidPrompt("documents must be a list, not empty", "documents")
    return _pairs([query], "query", documents, "documents")


def _score(body: Body) -> Prompt:
    for left, right in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")):
        if left in body or right in body:
            break
    else:
        left, right = "text_1", "text_2"
    firsts, seconds = _one_or_many(body, left), _one_or_many(body, right)
    if len(firsts) not in (1, len(seconds)):
        raise InvalidPrompt(
            f"{left} must have one entry or as many as {right}, got {len(firsts)} and"
            f" {len(seconds)}",
            left,
        )
    return _pairs(firsts, left, seconds, right)


def _one_or_many(body: Body, param: str) -> list[object]:
    value = body.get(param)
    if isinstance(value, list) and value:
        return value
    if isinstance(value, str | dict) and value:
        return [value]
    raise InvalidPrompt(f"{param} must be a string or a list, not empty", param)


def _pairs(
    firsts: Sequence[object], first_param: str, seconds: Sequence[object], second_param: str
) -> Prompt:
    lefts = [as_bytes(first, first_param) + b"\x1e" for first in firsts]
    rights = [as_bytes(second, second_param) for second in seconds]
    own = sum(map(len, rights))
    if len(lefts) == 1:
        (query,) = lefts
        return Prompt(tuple(rights), len(rights) * len(query) + own, 0, shared=query)
    sequences = tuple(map(operator.add, lefts, rights))
    return Prompt(sequences, own + sum(map(len, lefts)), 0)


def _sequences(value: object, param: str) -> Prompt:
    """The four forms of a prompt: text, texts, token ids, lists of token ids."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and value:
        first = value[0]
        if isinstance(first, str):
            return _texts(value, param)
        if isinstance(first, list):
            return _token_ids(value, param)
        if isinstance(first, int):
            return _token_ids([value], param)
    raise InvalidPrompt(
        f"{param} must be a string, a list of strings, a list of token ids or a list of such"
        " lists, not empty",
        param,
    )


def _texts(values: list[object], param: str) -> Prompt:
    sequences: list[bytes] = []
    for value in values:
        if not isinstance(value, str):
            raise InvalidPrompt(f"{param} must not mix strings with other types", param)
        if not value:
            raise InvalidPrompt(f"{param} must not be empty", param)
        sequences.append(value.encode("utf-8", "surrogatepass"))
    return Prompt(tuple(sequences), sum(map(len, sequences)), 0)


def _token_ids(lists: list[object], param: str) -> Prompt:
    sequences: list[bytes] = []
    for ids in lists:
        if not isinstance(ids, list):
            raise InvalidPrompt(f"{param} must not mix token ids with other types", param)
        if not ids:
            raise InvalidPrompt(f"{param} must not be empty", param)
        try:
            packed = array.array("I", ids)
        except (TypeError, OverflowError):
            raise InvalidPrompt(
                f"{param}: token ids must be whole numbers from 0 to {2**32 - 1}", param
            ) from None
        if sys.byteorder == "big":
            packed.byteswap()
        sequences.append(packed.tobytes())
    return Prompt(tuple(sequences), 0, sum(map(len, sequences)) // TOKEN_ID_BYTES)


def _text(out: Rendering) -> Prompt:
    rendered = b"".join(out.chunks)
    return Prompt((rendered,), len(rendered), 0, out.media_items)


_READERS: dict[Form, Callable[[Body], Prompt]] = {
    Form.CHAT: _chat,
    Form.COMPLETIONS: _completions,
    Form.EMBEDDINGS: _embeddings,
    Form.RESPONSES: _responses,
    Form.ANTHROPIC: _anthropic,
    Form.RERANK: _rerank,
    Form.SCORE: _score,
    Form.TOKENIZE: _tokenize,
    Form.GENERATE: _generate,
    Form.SGLANG: _sglang,
    Form.GENERATIVE_SCORE: _generative_score,
}
