"""Every problem of a file at once, also those that only show where the rest of it is sound."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from gateway.config.checks.policies import check_policies
from gateway.config.checks.sections import check_sections
from gateway.config.checks.tokenizers import check_tokenizers
from gateway.config.reading.problems import Problem
from gateway.config.reading.refusals import problem_of, problems_of
from gateway.config.reading.yaml_file import YamlFile
from gateway.config.schema.fault import Fault, Location, key_path
from gateway.config.schema.secret import Secret, SecretContext, SecretReader
from gateway.config.schema.sections import Sections

_MOST_ROUNDS: Final = 20
_ITEM: Final = re.compile(r"\b([a-z_]+)\[(\d+)\]")
"""An item of a list at the top of the file, in a hint."""
_PLACEHOLDER: Final = "in-place-of-a-secret-that-cannot-be-read"


@dataclass(frozen=True, slots=True)
class _Placeholders:
    """Secrets, with another text for those that cannot be read: that is reported once, and is no
    reason to leave out what needs them."""

    reader: SecretReader

    def read(self, secret: Secret) -> str:
        """See SecretReader."""
        try:
            return self.reader.read(secret)
        except PydanticCustomError:
            return _PLACEHOLDER


def survey(file: YamlFile, context: SecretContext) -> list[Problem]:
    """What is wrong with a file. What is refused is left out and the rest checked again, until that
    is sound; then its sections are checked against each other, and what they name is looked for.
    What only follows from something that was left out is not a problem of its own."""
    found: dict[tuple[int, int, str, str], Problem] = {}

    def note(problem: Problem) -> None:
        found.setdefault((problem.line, problem.column, problem.key, problem.expected), problem)

    sections = _validated(file, file.data, context)
    if isinstance(sections, ValidationError):
        for problem in problems_of(sections, file, Sections):
            note(problem)
    lenient = SecretContext(context.folder, _Placeholders(context.reader))
    rest = _Rest(file)
    for _ in range(_MOST_ROUNDS):
        sections = _validated(file, rest.data(), lenient)
        if not isinstance(sections, ValidationError):
            break
        for fault, problem in rest.refused(sections):
            if not rest.follows(fault):
                note(problem)
            rest.leave_out(fault.at)
    if isinstance(sections, Sections):
        for fault in (
            *check_sections(sections),
            *check_policies(sections),
            *check_tokenizers(sections),
        ):
            placed = rest.placed(fault)
            if not rest.follows(placed):
                note(problem_of(placed, file))
    return list(found.values())


def _validated(
    file: YamlFile, data: JsonValue, context: SecretContext
) -> Sections | ValidationError:
    try:
        return Sections.model_validate_json(json.dumps(data), context=context)
    except ValidationError as error:
        return error


class _Rest:
    """A file's data without what was left out. Locations are those of the file."""

    def __init__(self, file: YamlFile) -> None:
        self._file = file
        self._out: set[Location] = set()
        self._names: set[JsonValue] = set()
        """Of what was left out: whoever refers to it is not at fault."""

    def data(self) -> JsonValue:
        """What is left."""
        return self._without(self._file.data, ())

    def _without(self, value: JsonValue, at: Location) -> JsonValue:
        match value:
            case dict():
                kept = ((key, item) for key, item in value.items() if (*at, key) not in self._out)
                return {key: self._without(item, (*at, key)) for key, item in kept}
            case list():
                return [
                    self._without(item, (*at, index))
                    for index, item in enumerate(value)
                    if (*at, index) not in self._out
                ]
        return value

    def original(self, at: Location) -> Location:
        """The place in the file of a place in what is left."""
        found: Location = ()
        for part in at:
            value = self._value(found)
            if isinstance(part, int) and isinstance(value, list):
                left = [i for i in range(len(value)) if (*found, i) not in self._out]
                part = left[part] if part < len(left) else part
            found = (*found, part)
        return found

    def placed(self, fault: Fault) -> Fault:
        """A fault of what is left, as one of the file; its hint may name another place."""

        def moved(match: re.Match[str]) -> str:
            kind, index = match[1], int(match[2])
            return key_path(self.original((kind, index)))

        hint = None if fault.hint is None else _ITEM.sub(moved, fault.hint)
        return Fault(self.original(fault.at), fault.expected, fault.got, hint)

    def refused(self, error: ValidationError) -> Iterator[tuple[Fault, Problem]]:
        """What pydantic refused of what is left, with the place in the file."""
        for detail, problem in zip(
            error.errors(include_url=False, include_input=False),
            problems_of(error, self._file, Sections, self.original),
            strict=True,
        ):
            at = self._file.real(self.original(detail["loc"]))
            yield Fault(at, problem.expected), problem

    def follows(self, fault: Fault) -> bool:
        """The fault is in what was left out, or in what it was a part of, or refers to it."""
        within = any(
            fault.at[: len(out)] == out or out[: len(fault.at)] == fault.at for out in self._out
        )
        value = self._value(fault.at)
        return within or (isinstance(value, str) and value in self._names)

    def leave_out(self, at: Location) -> None:
        """Leave out the value there; where there is none (any more), what it is missing in."""
        while at and (at in self._out or not self._is_there(at)):
            at = at[:-1]
        self._out.add(at)
        value = self._value(at)
        if at[-1:] == ("name",):
            self._names.add(value)
        elif isinstance(value, dict) and isinstance(value.get("name"), str):
            self._names.add(value["name"])

    def _is_there(self, at: Location) -> bool:
        holder = self._value(at[:-1])
        if isinstance(holder, dict):
            return at[-1] in holder
        return isinstance(holder, list) and isinstance(at[-1], int) and at[-1] < len(holder)

    def _value(self, at: Location) -> JsonValue:
        value = self._file.data
        for part in at:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value
