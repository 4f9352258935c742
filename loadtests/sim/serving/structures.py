"""JSON that a schema allows, and other texts that a client may prescribe."""

import json
import math
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.sim.serving.patterns import UnwritableError, matching

_WORDS: Final = (
    "request",
    "replica",
    "routing",
    "serving",
    "latency",
    "balance",
    "memory",
    "token",
)
_DEEP: Final = 5
"""From here on, only what is required is written."""
_DEEPEST: Final = 40
_MORE: Final = 2
"""Items beyond the least of a list."""
_TRIES: Final = 50
_FORMATS: Final = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "host.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/path",
    "uri-reference": "/path",
    "json-pointer": "/path",
}
_OBJECT_KEYS: Final = ("properties", "required", "additionalProperties", "minProperties")
_LIST_KEYS: Final = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")
_NUMBER_KEYS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")

Schema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Written:
    """A text that is not of the model's own choice."""

    text: str
    tool: str = ""
    """The tool that it calls; the text is its arguments."""
    named: bool = False
    """The client had named the tool."""


Structure = Callable[[random.Random], Written]
"""Writes a text that fits."""


def json_text(schema: object) -> Structure:
    """JSON that the schema allows; True stands for any object. Raises UnwritableError for a schema
    for which nothing is found."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise UnwritableError(f"the schema is no JSON: {error}") from error
    whole: object = {"type": "object", "minProperties": 1} if schema is True else schema

    def write(rng: random.Random) -> Written:
        return Written(json.dumps(_Writer(whole, rng).value(whole, 0)))

    write(random.Random(0))  # what cannot be written is refused before anything runs
    return write


def regex_text(pattern: str) -> Structure:
    """Raises UnwritableError for a pattern for which nothing is found."""
    matching(pattern, random.Random(0))
    return lambda rng: Written(matching(pattern, rng))


def choice_text(choices: Sequence[str]) -> Structure:
    """One of these."""
    return lambda rng: Written(rng.choice(choices))


def tool_arguments(tools: Mapping[str, object], *, named: bool) -> Structure:
    """A call of one of the tools; schemas of their arguments by name."""
    writers = {name: json_text(schema) for name, schema in tools.items()}

    def write(rng: random.Random) -> Written:
        name = rng.choice(sorted(writers))
        return Written(writers[name](rng).text, name, named)

    return write


class _Writer:
    """Writes values of a schema; ``root`` resolves its references."""

    def __init__(self, root: object, rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def value(self, schema: object, depth: int) -> object:
        if depth > _DEEPEST:
            raise UnwritableError("the schema has no end: it requires itself")
        if schema is True or schema is None:
            return self._word()
        if not isinstance(schema, dict):
            raise UnwritableError(f"{schema!r:.80} is no schema")
        schema = self._resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        options = schema.get("enum")
        if isinstance(options, list) and options:
            return self._rng.choice(options)
        match self._type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._list(schema, depth)
            case "string":
                return self._string(schema)
            case "integer":
                return int(self._number(schema, whole=True))
            case "number":
                return self._number(schema, whole=False)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case other:
                raise UnwritableError(f"{other!r:.80} is no type of a schema")

    def _resolved(self, schema: Schema, depth: int) -> dict[str, object]:
        """Without references and combinations."""
        found = dict(schema)
        for _ in range(_DEEPEST):
            reference = found.pop("$ref", None)
            if isinstance(reference, str):
                found = _merged(self._target(reference), found)
            every = found.pop("allOf", None)
            for part in every if isinstance(every, list) else ():
                found = _merged(part, found)
            for key in ("anyOf", "oneOf"):
                parts = found.pop(key, None)
                if isinstance(parts, list) and parts:
                    # Deep inside, the simplest: recursive schemas have to end.
                    part = min(parts, key=_size) if depth > _DEEP else self._rng.choice(parts)
                    found = _merged(part, found)
            if not {"$ref", "allOf", "anyOf", "oneOf"} & found.keys():
                return found
        raise UnwritableError("the schema's references go round in circles")

    def _target(self, reference: str) -> object:
        found = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise UnwritableError(f"the schema has nothing at {reference!r}")
        return found

    def _type(self, schema: Schema) -> object:
        given = schema.get("type")
        if isinstance(given, list) and given:
            return self._rng.choice(given)
        if given is not None:
            return given
        for kind, keys in (
            ("object", _OBJECT_KEYS),
            ("array", _LIST_KEYS),
            ("number", _NUMBER_KEYS),
        ):
            if any(key in schema for key in keys):
                return kind
        return "string"

    def _object(self, schema: Schema, depth: int) -> dict[str, object]:
        properties = schema.get("properties")
        known: dict[str, object] = dict(properties) if isinstance(properties, dict) else {}
        given = schema.get("required")
        required = (
            [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
        )
        more = schema.get("additionalProperties", True)
        wanted = [name for name in known if name in required or depth < _DEEP]
        wanted += [name for name in required if name not in known]
        least = _whole(schema.get("minProperties"), 0)
        extra = (f"{word}_{number}" for number in range(least) for word in _WORDS)
        if more is not False:
            while len(wanted) < least:
                wanted.append(next(extra))
        return {name: self.value(known.get(name, more), depth + 1) for name in wanted}

    def _list(self, schema: Schema, depth: int) -> list[object]:
        least = _whole(schema.get("minItems"), 0)
        most = _whole(schema.get("maxItems"), max(least, 1) + _MORE)
        first = schema.get("prefixItems")
        prefix = first if isinstance(first, list) else []
        rest = schema.get("items", True)
        if rest is False:
            most = min(most, len(prefix))
        usual = min(most, max(least, len(prefix), 1) + _MORE)
        length = least if depth > _DEEP else self._rng.randint(min(max(least, 1), most), usual)
        unique = schema.get("uniqueItems") is True
        items: list[object] = []
        for _ in range(_TRIES * max(length, 1)):
            if len(items) >= length:
                break
            of = prefix[len(items)] if len(items) < len(prefix) else rest
            item = self.value(of, depth + 1)
            if not unique or item not in items:
                items.append(item)
        if len(items) < least:
            raise UnwritableError("the schema wants more different items than there are")
        return items

    def _string(self, schema: Schema) -> str:
        pattern, least = schema.get("pattern"), _whole(schema.get("minLength"), 0)
        most = _whole(schema.get("maxLength"), max(least, 24))
        if isinstance(pattern, str):
            for _ in range(_TRIES):
                text = matching(pattern, self._rng)
                if least <= len(text) <= max(most, least) or "maxLength" not in schema:
                    return text
            raise UnwritableError(f"no text of {least} to {most} characters matches {pattern!r}")
        kind = schema.get("format")
        if kind == "uuid":
            return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        if isinstance(kind, str) and kind in _FORMATS:
            return _FORMATS[kind]
        text = self._word()
        while len(text) < least:
            text += " " + self._word()
        return text[: max(most, least)]

    def _number(self, schema: Schema, *, whole: bool) -> float:
        low, high = _bounds(schema)
        if low == -math.inf:
            low = min(0.0, high - 100)
        if high == math.inf:
            high = max(100.0, low + 100)
        step = schema.get("multipleOf")
        if isinstance(step, int | float) and step > 0:
            size = float(step)
        elif whole:
            size = 1.0
        else:
            return round(self._rng.uniform(low, high), 3) if high - low > 0.01 else (low + high) / 2
        first, last = math.ceil(low / size), math.floor(high / size)
        if first > last:
            raise UnwritableError(f"the schema allows no number: {dict(schema)!r:.80}")
        value = self._rng.randint(first, last) * size
        return float(int(value)) if size.is_integer() else round(value, 10)

    def _word(self) -> str:
        return self._rng.choice(_WORDS)


def _merged(part: object, schema: Schema) -> dict[str, object]:
    """Both: what each requires is required."""
    if part is True:
        return dict(schema)
    if not isinstance(part, dict):
        raise UnwritableError(f"{part!r:.80} is no schema")
    merged = {**part, **schema}
    for key in ("properties", "$defs"):
        one, other = part.get(key), schema.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            merged[key] = {**one, **other}
    one, other = part.get("required"), schema.get("required")
    if isinstance(one, list) and isinstance(other, list):
        merged["required"] = list(dict.fromkeys([*one, *other]))
    return merged


def _size(schema: object) -> int:
    """How much a schema asks for; references ask for most."""
    if not isinstance(schema, dict):
        return 0
    return len(json.dumps(schema)) + (10_000 if "$ref" in json.dumps(schema) else 0)


def _bounds(schema: Schema) -> tuple[float, float]:
    """Least and most that a number may be."""
    low, high = -math.inf, math.inf
    tiny = 1.0 if schema.get("type") == "integer" else 1e-3
    for key, value in schema.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        match key:
            case "minimum":
                low = max(low, value)
            case "maximum":
                high = min(high, value)
            case "exclusiveMinimum":
                low = max(low, math.floor(value) + 1 if tiny == 1.0 else value + tiny)
            case "exclusiveMaximum":
                high = min(high, math.ceil(value) - 1 if tiny == 1.0 else value - tiny)
    return low, high


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default
