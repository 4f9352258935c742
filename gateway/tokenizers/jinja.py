"""Chat templates as Hugging Face's library runs them: Jinja in a sandbox, with trimmed blocks,
`break` and `continue`, `generation` blocks, `tojson`, `raise_exception` and `strftime_now`.

Imported where a model's folder is read: the package jinja2 is optional.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.tokenizers.content_format import content_format_of
from gateway.tokenizers.conversation import ContentFormat, Unrenderable

_FAILURES: Final = (
    *(TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""What templates raise: their own exceptions, and those of what they do to values."""


def check(source: str) -> None:
    """Raises ValueError for what is no template."""
    try:
        _compiled(source)
    except (TemplateError, RecursionError) as error:
        raise ValueError(f"its chat template cannot be read: {error}") from error


def format_of(source: str) -> ContentFormat:
    """How a template takes the content of messages."""
    return _compiled(source)[1]


def render(source: str, values: Mapping[str, object]) -> str:
    """The template's text. Raises Unrenderable."""
    try:
        return _compiled(source)[0].render(values)
    except _FAILURES as error:
        raise Unrenderable(str(error)) from error


class _Generation(Extension):
    """`{% generation %}`: marks what the model has said. Its contents stay as they are."""

    tags = {"generation"}  # noqa: RUF012 - so declared by the library

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """See the library."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        autoescape=False,
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = _now_as
    return made


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now_as(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005 - the engine's clock has no zone either


@lru_cache(maxsize=64)
def _compiled(source: str) -> tuple[Template, ContentFormat]:
    environment = _environment()
    return environment.from_string(source), content_format_of(environment.parse(source))
