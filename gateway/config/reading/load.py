"""Loading the configuration file: from a path to an accepted Config, or to every problem in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from gateway.config.config import Config
from gateway.config.reading.nearest import nearest
from gateway.config.reading.problems import ConfigError, Problem
from gateway.config.reading.source import Location, Source, parse
from gateway.config.schema.secret import HostSecrets, SecretContext
from gateway.config.schema.section import Section
from gateway.config.schema.sections import keys_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_STATE_DIR: Final = "penstock-state"
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
"""By pydantic's error type; for the others its message says it well."""


def load(path: Path, *, environment: Mapping[str, str] | None = None) -> Config:
    """Read, check and resolve a configuration file. Raises ConfigError with every problem found.

    ``environment``: where ``{env: NAME}`` secrets come from; None: this process's.
    """
    return load_with_source(path, environment=environment)[0]


def load_with_source(
    path: Path, *, environment: Mapping[str, str] | None = None
) -> tuple[Config, Source]:
    """As `load`, and the source that tells places in the file."""
    path = path.absolute()
    source = parse(path, _read(path))
    secrets = HostSecrets(os.environ if environment is None else environment)
    context = SecretContext(folder=path.parent, reader=secrets)
    try:
        config = Config.model_validate_json(json.dumps(source.data), context=context)
    except ValidationError as error:
        problems = problems_of(error, source, Config)
        raise ConfigError(problems, files=frozenset({path, *secrets.files})) from None
    if config.state_dir is None:
        config = config.model_copy(update={"state_dir": path.parent / _STATE_DIR})
    return config, source


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        got = error.strerror or str(error)
    except UnicodeDecodeError as error:
        got = f"bytes that are not UTF-8, at offset {error.start}"
    problem = Problem(path, 0, 0, "", got, "a readable YAML file")
    raise ConfigError([problem], files=frozenset({path}))


def problems_of(error: ValidationError, source: Source, root: type[Section]) -> list[Problem]:
    """What pydantic refused, as a person reads it. ``root``: the section that was validated."""
    details = error.errors(include_url=False, include_input=False)
    return [_problem(source, detail, root) for detail in details]


def _problem(source: Source, detail: ErrorDetails, root: type[Section]) -> Problem:
    kind, location = detail["type"], detail["loc"]
    context = detail.get("ctx", {})
    place = source.place(location)
    got, hint = place.value, None
    if kind == "refused":
        expected = str(context["expected"])
        got, hint = str(context.get("got", got)), context.get("hint")
    elif kind == "extra_forbidden":
        return _unknown_key(source, location, root)
    elif kind == "missing":
        got, expected = "nothing: the key is missing", f"the key `{location[-1]}`"
    elif kind == "union_tag_invalid":
        location = (*location, str(context["discriminator"]).strip("'"))
        place = source.place(location)
        got, expected = place.value, f"one of {context['expected_tags']}".replace("'", "")
        hint = nearest(
            str(context["tag"]), str(context["expected_tags"]).replace("'", "").split(", ")
        )
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind].format(**{k: str(v).strip("'") for k, v in context.items()})
        hint = _quoting_hint(kind, got)
    else:
        expected = detail["msg"].removeprefix("Input should be ").replace("'", "")
        if kind == "literal_error":
            choices = expected.replace(" or ", ", ").split(", ")
            hint = nearest(got.strip('"'), choices)
            if location[-1] == "<word>":
                keys = ", ".join(keys_at(root, location[:-1]))
                choices.append(f"or a mapping with the keys {keys}")
            expected = f"one of {', '.join(choices)}"
    return Problem(
        source.file,
        place.line,
        place.column,
        source.key_path(location),
        got,
        expected,
        None if hint is None else str(hint),
    )


def _unknown_key(source: Source, location: Location, root: type[Section]) -> Problem:
    place = source.place(location, of_key=True)
    known = keys_at(root, location[:-1])
    return Problem(
        source.file,
        place.line,
        place.column,
        source.key_path(location),
        "an unknown key",
        f"one of {', '.join(known)}",
        nearest(str(location[-1]), known),
    )


def _quoting_hint(kind: str, got: str) -> str | None:
    number = got.replace(".", "", 1).replace("-", "", 1).isdigit()
    if kind == "string_type" and (number or got in ("true", "false")):
        return f'put it between quotation marks: "{got}"'
    return None
