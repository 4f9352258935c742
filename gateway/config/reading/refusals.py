"""What pydantic and our checks refuse, as problems that a person can act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from gateway.config.checks.nearest import nearest
from gateway.config.reading.problems import Problem
from gateway.config.reading.yaml_file import YamlFile
from gateway.config.schema.fault import Fault, Location
from gateway.config.schema.section import Section
from gateway.config.schema.walk import keys_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
    "finite_number": "a finite number",
    "union_tag_not_found": "a mapping with the key {discriminator}",
}
"""By pydantic's error type; for the others pydantic's own message is good."""


def problem_of(fault: Fault, file: YamlFile, *, of_key: bool = False) -> Problem:
    """A fault with its position in the file: that of the value, or of its key."""
    position = file.position(fault.at, of_key=of_key)
    return Problem(
        file.path,
        position.line,
        position.column,
        file.key_path(fault.at),
        position.value if fault.got is None else fault.got,
        fault.expected,
        fault.hint,
    )


def problems_of(
    error: ValidationError,
    file: YamlFile,
    root: type[Section],
    place: Callable[[Location], Location] = lambda at: at,
) -> list[Problem]:
    """Everything that pydantic refused. ``root``: the section that was validated. ``place``: from
    a location in what was validated to that in the file."""
    details = error.errors(include_url=False, include_input=False)
    for detail in details:
        detail["loc"] = place(detail["loc"])
    return [
        problem_of(_fault(detail, file, root), file, of_key=detail["type"] == "extra_forbidden")
        for detail in details
    ]


def _fault(detail: ErrorDetails, file: YamlFile, root: type[Section]) -> Fault:
    kind, at = detail["type"], detail["loc"]
    context = {key: str(value) for key, value in detail.get("ctx", {}).items()}
    if kind == "refused":
        return Fault(at, context["expected"], context.get("got"), context.get("hint"))
    if kind == "extra_forbidden":
        known = keys_at(root, at[:-1])
        hint = nearest(str(at[-1]), known)
        return Fault(at, f"one of {', '.join(known)}", "an unknown key", hint)
    if kind == "missing":
        return Fault(at, f"the key `{at[-1]}`", "nothing: the key is missing")
    if kind == "union_tag_invalid":
        choices = context["expected_tags"].replace("'", "")
        hint = nearest(context["tag"], choices.split(", "))
        return Fault((*at, context["discriminator"].strip("'")), f"one of {choices}", hint=hint)
    got = file.position(at).value
    if kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**{key: text.strip("'") for key, text in context.items()})
        return Fault(at, expected, hint=_quoting_hint(kind, got))
    expected = detail["msg"].removeprefix("Input should be ").replace("'", "")
    if kind != "literal_error":
        return Fault(at, expected)
    words = expected.replace(" or ", ", ").split(", ")
    hint = nearest(got.strip('"'), words)
    if at[-1] == "<word>":
        words.append(f"or a mapping with the keys {', '.join(keys_at(root, at[:-1]))}")
    return Fault(at, f"one of {', '.join(words)}", hint=hint)


def _quoting_hint(kind: str, got: str) -> str | None:
    number = got.replace(".", "", 1).replace("-", "", 1).isdigit()
    if kind == "string_type" and (number or got in ("true", "false")):
        return f'put it between quotation marks: "{got}"'
    return None
