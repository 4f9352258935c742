"""What clients may call: the inference APIs of each engine, by method.

Everything else is closed. Engines serve their control paths (weights, caches, adapters, profiles,
sleep) on the same port, and each release has new ones. A path is compared as a whole: vLLM and
TensorRT-LLM answer with their metrics below ``/metrics/`` whatever follows.

Paths: vLLM 0.32 ``vllm/entrypoints/*/api_router.py``; SGLang 0.5
``srt/entrypoints/http_server.py``; TensorRT-LLM 1.2 ``serve/openai_server.py``; OpenAI's API
reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

_GET: Final = frozenset({"GET", "HEAD"})
_POST: Final = frozenset({"POST"})
_POST_PUT: Final = frozenset({"POST", "PUT"})

HEALTH_PATHS: Final = frozenset({"/health", "/ping"})
"""The gateway answers them itself, without a key."""
MODELS: Final = "/v1/models"

_Paths = Mapping[str, frozenset[str]]

_EVERYWHERE: Final[_Paths] = {
    "/health": _GET,
    "/ping": _GET | _POST,
    MODELS: _GET,
    "/v1/chat/completions": _POST,
    "/v1/completions": _POST,
    "/v1/embeddings": _POST,
    "/v1/responses": _POST,
    "/v1/responses/{id}": _GET | {"DELETE"},
    "/v1/responses/{id}/cancel": _POST,
    "/v1/responses/{id}/input_items": _GET,
    "/v1/messages": _POST,
    "/v1/messages/count_tokens": _POST,
    "/v1/audio/speech": _POST,
    "/v1/audio/transcriptions": _POST,
    "/v1/audio/translations": _POST,
    "/v1/images/generations": _POST,
    "/v1/images/edits": _POST,
    "/v1/images/variations": _POST,
    "/version": _GET,
}
_OF_ENGINE: Final[Mapping[str, _Paths]] = {
    "vllm": {
        "/v1/chat/completions/batch": _POST,
        "/v1/chat/completions/render": _POST,
        "/v1/chat/completions/derender": _POST,
        "/v1/completions/render": _POST,
        "/v1/completions/derender": _POST,
        "/v1/responses/render": _POST,
        "/v1/messages/render": _POST,
        "/v2/embed": _POST,
        "/cohere/v2/chat": _POST,
        "/cohere/v2/chat/render": _POST,
        "/pooling": _POST,
        "/classify": _POST,
        "/score": _POST,
        "/v1/score": _POST,
        "/rerank": _POST,
        "/v1/rerank": _POST,
        "/v2/rerank": _POST,
        "/generative_scoring": _POST,
        "/inference/v1/generate": _POST,
        "/invocations": _POST,
        "/tokenize": _POST,
        "/detokenize": _POST,
        "/tokenizer_info": _GET,
    },
    "sglang": {
        "/generate": _POST_PUT,
        "/encode": _POST_PUT,
        "/classify": _POST_PUT,
        "/v1/classify": _POST,
        "/v1/score": _POST,
        "/v1/rerank": _POST_PUT,
        "/invocations": _POST,
        "/api/chat": _POST,
        "/api/generate": _POST,
        "/api/show": _POST,
        "/api/tags": _GET,
        "/tokenize": _POST,
        "/detokenize": _POST,
        "/v1/tokenize": _POST,
        "/v1/detokenize": _POST,
        "/parse_function_call": _POST,
        "/separate_reasoning": _POST,
        "/model_info": _GET,
        "/get_model_info": _GET,
    },
    "trtllm": {
        "/v1/images/{id}/content": _GET,
        "/v1/videos/generations": _POST,
    },
    "openai": {
        "/v1/moderations": _POST,
        "/v1/responses/compact": _POST,
        "/v1/responses/input_tokens": _POST,
        "/v1/rerank": _POST,
    },
}
"""Beside those that every engine has. Engines without a list of their own have all of them."""

_HANDED_OVER: Final[Mapping[str, _Paths]] = {
    "/v1/files": {
        "/v1/files": _GET | _POST,
        "/v1/files/{id}": _GET | {"DELETE"},
        "/v1/files/{id}/content": _GET,
    },
    "/v1/batches": {
        "/v1/batches": _GET | _POST,
        "/v1/batches/{id}": _GET,
        "/v1/batches/{id}/cancel": _POST,
    },
}
"""What this gateway serves in another process, by the beginning of the paths."""

_PARAMETER: Final = r"(?!\.{1,2}(?:/|\Z))[^/]+"
_NAME: Final = r"[A-Za-z0-9_:@~-][A-Za-z0-9_.:@~-]*"
"""A parameter where nothing can be looked up: RE2 knows no lookahead."""
_BELOW: Final = r"[A-Za-z0-9_.:@~/-]*"
_EVERY_METHOD: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class OpenPaths:
    """The paths that are open, with the methods of each."""

    def __init__(
        self,
        engines: Iterable[str],
        passthrough: Iterable[str] = (),
        handed_over: Iterable[str] = (),
    ) -> None:
        """``engines``: names of the configuration, of all pools that a request may go to.
        ``passthrough``: paths to open besides, for every method; ``PATH/*`` opens
        everything below PATH too. ``handed_over``: beginnings of the paths that another process of
        this gateway serves."""
        methods: dict[str, frozenset[str]] = dict(_EVERYWHERE)
        for beginning in handed_over:
            methods |= _HANDED_OVER[beginning]
        for engine in engines:
            lists = [_OF_ENGINE[engine]] if engine in _OF_ENGINE else _OF_ENGINE.values()
            for paths in lists:
                for path, allowed in paths.items():
                    methods[path] = methods.get(path, frozenset()) | allowed
        below = []
        for path in passthrough:
            if path.endswith("/*"):
                below.append(path[:-1])
            methods[path.removesuffix("/*")] = _EVERY_METHOD
        self._exact = MappingProxyType({path: methods[path] for path in methods if "{" not in path})
        self._patterns = tuple(
            (re.compile(re.sub(r"\{\w+\}", lambda _: _PARAMETER, path)), allowed)
            for path, allowed in methods.items()
            if "{" in path
        )
        self._below = tuple(below)

    @property
    def exact(self) -> Mapping[str, frozenset[str]]:
        """The open paths that stand for themselves alone, with their methods."""
        return self._exact

    def patterns(self) -> Iterator[tuple[str, frozenset[str]]]:
        """The others, as regular expressions (RE2) of the whole path, with their methods."""
        for path in self._below:
            yield re.escape(path) + _BELOW, _EVERY_METHOD
        for pattern, allowed in self._patterns:
            yield pattern.pattern.replace(_PARAMETER, _NAME), allowed

    def methods(self, path: str) -> frozenset[str] | None:
        """Methods that the path is open for; None when it is closed."""
        found = self._exact.get(path)
        if found is not None:
            return found
        if path.startswith(MODELS + "/"):
            return _GET  # a model's name may hold any character; the picker answers it
        if path.startswith(self._below):
            return _EVERY_METHOD
        for pattern, allowed in self._patterns:
            if pattern.fullmatch(path):
                return allowed
        return None

    def instead_of(self, path: str) -> str | None:
        """The open path that a closed one was probably meant to be, for a hint."""
        for other in ("/v1" + path, path.removeprefix("/v1")):
            if other in self._exact and other != path:
                return other
        return None
