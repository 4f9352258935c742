"""A YAML file as plain data, with the position of every key and value in it.

Scalars follow the YAML 1.2 core schema: only true and false are booleans, so `off` and `no` are
text, and `10:20` is not a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import JsonValue

from gateway.config.reading.problems import ConfigError, Problem
from gateway.config.schema.fault import Location, key_path

_TAG: Final = "tag:yaml.org,2002:"
_MAX_SHOWN: Final = 60


class _CoreLoader(yaml.SafeLoader):
    """Composes nodes only. Scalars get the tags of the core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value is in the file, and the value."""

    line: int
    """From 1."""
    column: int
    """From 1."""
    value: str
    """The value as text, shortened."""


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A parsed file, see `parse`."""

    path: Path
    root: yaml.Node | None
    data: JsonValue

    def key_path(self, location: Location) -> str:
        """``pools[0].endpoints[1]``; names of union members, which pydantic adds, are left out."""
        return key_path(self.real(location))

    def position(self, location: Location, *, of_key: bool = False) -> Position:
        """Of the value, or of its key; of a value that is missing, its section's."""
        node, key = self.root, None
        for part in self.real(location):
            found = next(((k, v) for p, k, v in _children(node) if p == part), None)
            if found is None:
                break
            key, node = found
        if node is None:
            return Position(1, 1, "an empty file")
        mark = (key if of_key and key is not None else node).start_mark
        return Position(mark.line + 1, mark.column + 1, _shown(node))

    def real(self, location: Location) -> Location:
        """The location without the names of union members that pydantic inserts."""
        return tuple(self._parts(location))

    def _parts(self, location: Location) -> Iterator[str | int]:
        node = self.root
        for part in location:
            children = list(_children(node))
            found = next((v for p, _, v in children if p == part), None)
            kind = next((str(v.value) for p, _, v in children if p == "type"), None)
            if found is None and isinstance(part, str) and (part[:1] == "<" or part == kind):
                continue
            yield part
            node = found


def parse(file: Path, text: str) -> YamlFile:
    """Parse one YAML document. Raises ConfigError with every duplicate key, or the syntax error."""
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(file, error)], files=frozenset({file})) from error
    except yaml.YAMLError as error:
        problem = Problem(file, 0, 0, "", str(error).replace("\n", " "), "a YAML file")
        raise ConfigError([problem], files=frozenset({file})) from error
    builder = _Builder(file)
    data = builder.value(root, "") if root is not None else {}
    if builder.problems:
        raise ConfigError(builder.problems, files=frozenset({file}))
    return YamlFile(file, root, data)


def _syntax_problem(file: Path, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    got = ", ".join(text for text in (error.problem, error.context) if text)
    hint = None
    if "'\\t'" in got:
        hint = "indent with spaces, not with tabs"
    elif "but found another document" in got:
        hint = "one document only: remove the line ---"
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    return Problem(file, line, column, "", got, "valid YAML", hint)


class _Builder:
    def __init__(self, file: Path) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: str) -> JsonValue:
        if id(node) in self._open:
            self._refuse(node, path, "an alias inside what it stands for", "no circle of aliases")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(n, f"{path}[{i}]") for i, n in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: str) -> JsonValue:
        result: dict[str, JsonValue] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, path, "a list or mapping as a key", "text as a key")
                continue
            name = str(key.value)
            at = f"{path}.{name}" if path else name
            if name in lines:
                self._refuse(
                    key, at, f"the key a second time (first in line {lines[name]})", "it once"
                )
                continue
            lines[name] = key.start_mark.line + 1
            result[name] = self.value(value, at)
        return result

    def _scalar(self, node: yaml.Node, path: str) -> JsonValue:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            case "float":
                return float(re.sub(r"\.(?=[iInN])", "", text))
            case "str":
                return text
        self._refuse(node, path, f"the tag {node.tag}", "a plain value without a tag")
        return None

    def _refuse(self, node: yaml.Node, path: str, got: str, expected: str) -> None:
        mark = node.start_mark
        self.problems.append(
            Problem(self._file, mark.line + 1, mark.column + 1, path, got, expected)
        )


def _children(node: yaml.Node | None) -> Iterator[tuple[str | int, yaml.Node | None, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, None, value


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return _shortened("a mapping with the keys", [str(key.value) for key, _ in node.value])
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    text = str(node.value)
    if node.tag == _TAG + "null":
        return "nothing (null)"
    text = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    return f'"{text}"' if node.tag == _TAG + "str" else text


def _shortened(intro: str, names: Sequence[str]) -> str:
    text = ", ".join(names)
    return f"{intro} {text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '...'}"
