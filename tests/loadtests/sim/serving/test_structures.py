"""What is written is what the schema or the pattern allows."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping

import jsonschema
import pytest

from loadtests.sim.serving.patterns import UnwritableError, matching
from loadtests.sim.serving.structures import (
    choice_text,
    json_text,
    regex_text,
    tool_arguments,
)

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 3}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "children", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: Mapping[str, object] = {
    "person": PERSON,
    "tree": TREE,
    "everything": {},
    "true": True,
    "enum": {"enum": ["é", 3, None, {"a": []}]},
    "const": {"const": {"deep": [1]}},
    "types": {"type": ["string", "null", "boolean"]},
    "no type": {"properties": {"a": {"minimum": 3, "maximum": 4}}, "required": ["a", "b"]},
    "any of": {"anyOf": [{"type": "integer"}, {"type": "array", "items": PERSON}]},
    "one of": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    "all of": {"allOf": [PERSON | {"additionalProperties": True}, {"required": ["x"]}]},
    "beside a reference": {"$defs": {"p": PERSON}, "$ref": "#/$defs/p", "description": "x"},
    "numbers": {
        "type": "array",
        "minItems": 4,
        "maxItems": 4,
        "prefixItems": [
            {"type": "integer", "minimum": -5, "exclusiveMaximum": -3},
            {"type": "integer", "multipleOf": 7, "minimum": 100},
            {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
            {"type": "number", "multipleOf": 0.25, "minimum": 1, "maximum": 2},
        ],
        "items": False,
    },
    "lists": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
    "empty": {"type": "array", "maxItems": 0},
    "texts": {
        "type": "object",
        "properties": {
            "pattern": {"type": "string", "pattern": "^[A-Z]{3}-\\d+(é|ß)?$"},
            "long": {"type": "string", "minLength": 80, "maxLength": 90},
            "short": {"type": "string", "maxLength": 2},
            "date": {"type": "string", "format": "date"},
            "uuid": {"type": "string", "format": "uuid"},
            "mail": {"type": "string", "format": "email"},
            'quo"te\\': {"type": "string"},
        },
    },
    "many properties": {"type": "object", "minProperties": 11, "additionalProperties": PERSON},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_is_valid_against_its_schema(name: str) -> None:
    schema = SCHEMAS[name]
    write = json_text(schema)
    for seed in range(30):
        text = write(random.Random(seed)).text
        assert text.isascii()
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
        assert write(random.Random(seed)).text == text


def test_a_schema_as_text_and_any_object() -> None:
    assert json_text(json.dumps(PERSON))(random.Random(1)) == json_text(PERSON)(random.Random(1))
    assert json.loads(json_text(True)(random.Random(1)).text)


@pytest.mark.parametrize(
    "schema",
    [
        "not json",
        3,
        {"type": "number", "minimum": 3, "maximum": 2, "multipleOf": 1},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True},
        {"type": "function"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "string", "pattern": "a{9}", "maxLength": 3},
    ],
)
def test_what_cannot_be_written_is_refused_at_once(schema: object) -> None:
    with pytest.raises(UnwritableError):
        json_text(schema)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{3}-[a-f]+",
        r"(foo|bar)?baz*",
        r"^\w+@\w+\.com\n$",
        r"[^abc]{4}",
        r"(a)(b)\2\1",
        r".+?",
        r"\S\D\W",
        r"(?:yes|no)",
        r"[é-ü]",
        r"(?>ab)c",
        r"a++",
        r"",
    ],
)
def test_texts_of_patterns(pattern: str) -> None:
    for seed in range(20):
        text = matching(pattern, random.Random(seed))
        assert re.search(pattern, text), text
        assert regex_text(pattern)(random.Random(seed)).text == text


@pytest.mark.parametrize("pattern", ["(", "(?!x)y", "(?<=a)b", "a" * 3 + "(?P<x"])
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(UnwritableError):
        regex_text(pattern)


def test_choices_and_tools() -> None:
    made = {choice_text(["yes", "nö"])(random.Random(seed)).text for seed in range(20)}
    assert made == {"yes", "nö"}
    calls = tool_arguments({"a": PERSON, "b": {"type": "object"}}, named=False)
    written = [calls(random.Random(seed)) for seed in range(20)]
    assert {one.tool for one in written} == {"a", "b"}
    for one in written:
        if one.tool == "a":
            jsonschema.validate(json.loads(one.text), PERSON)
