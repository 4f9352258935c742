"""The reference page of the configuration, made from the schema.

``python -m gateway.config.reference`` writes docs/configuration.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config.pools import EnvValue, ProcessPool, SimulatedPool, StaticPool
from gateway.config.schema import Config
from gateway.config.secret import Secret
from gateway.config.section import ConfigPath, Section
from gateway.config.sections import hints, item_of, members, sections_of
from gateway.config.terms import (
    Endpoint,
    HttpPath,
    IpAddress,
    ModelName,
    Name,
    Port,
    Seconds,
)

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "configuration.md"
EXAMPLE: Final = ROOT / "deploy" / "examples" / "complete.yaml"

_NAMED_TYPES: Final[tuple[tuple[object, str], ...]] = (
    (Name, "name"),
    (ModelName, "model name"),
    (IpAddress, "IP address"),
    (Endpoint, "host:port"),
    (HttpPath, "HTTP path"),
    (ConfigPath, "path"),
    (Port, "port, 1 to 65535"),
    (Seconds, "seconds, above 0"),
    (EnvValue, "text or [secret](#secrets)"),
)
_PLAIN_TYPES: Final[Mapping[object, str]] = {
    str: "text",
    bool: "true or false",
    int: "integer",
    float: "number",
    Path: "path",
    Secret: "[secret](#secrets)",
}
_POOLS: Final = (StaticPool, SimulatedPool, ProcessPool)

_INTRO: Final = """\
# Configuration

<!-- Made by `python -m gateway.config.reference` from gateway/config; edit that, not this page. -->

Penstock reads one YAML file: `penstock up -c FILE`.

- `penstock config check FILE` tells every problem in it, with line, key, what was found and what
  would be right. `penstock config schema` prints its JSON Schema, for editors.
- The file is watched. A change is checked and put into force without a restart; a wrong one is
  refused with the same messages, and the configuration in force stays.
- Unknown and repeated keys are errors. Values are not converted: `"8080"` is text, not a number.
  Only `true` and `false` are booleans; `on`, `off`, `yes` and `no` are text.
- Names end with their unit: `_s` seconds, `_bytes` bytes. Counts of tokens say so in their text.
- Relative paths start from the folder of the configuration file.

## Secrets

A secret is never written into the file, only where to find it:

| key | type | meaning |
|---|---|---|
"""


def render() -> str:
    """The whole page, Markdown."""
    parts = [
        _INTRO + _secret_rows(),
        f"\n## Example\n\n```yaml\n{EXAMPLE.read_text().strip()}\n```\n",
        "\n## Keys\n\n" + _table(Config),
    ]
    for key, annotation in hints(Config).items():
        if key == "pools":
            parts.append(_pools(annotation))
        else:
            parts += _sections(key, annotation, level=3)
    return "".join(parts)


def _secret_rows() -> str:
    rows = [
        f"| `{key}` | {'path' if key == 'file' else 'text'} | {_flat(field.description)} |\n"
        for key, field in Secret.model_fields.items()
    ]
    return "".join(rows) + "\nExactly one of the two is given: `{env: NAME}` or `{file: PATH}`.\n"


def _pools(annotation: object) -> str:
    common = [
        k
        for k in StaticPool.model_fields
        if k != "type" and all(k in p.model_fields for p in _POOLS)
    ]
    text = "\n### `pools[]`\n\nEvery pool has these keys, and those of its `type`.\n\n"
    text += _table(
        StaticPool, only=["type", *common], type_choices=["static", "simulated", "process"]
    )
    for pool in _POOLS:
        kind = get_args(hints(pool)["type"])[0]
        own = [key for key in pool.model_fields if key not in common and key != "type"]
        text += f"\n#### `pools[]` with `type: {kind}`\n\n{_flat(pool.__doc__)}\n\n"
        text += _table(pool, only=own)
        for key in own:
            text += "".join(_sections(f"pools[].{key}", hints(pool)[key], level=5))
    return text


def _sections(path: str, annotation: object, level: int) -> Iterator[str]:
    item = item_of(annotation)
    if item is not None:
        is_list = any(get_origin(member) is tuple for _, member in members(annotation))
        path, annotation = f"{path}[]" if is_list else f"{path}.NAME", item
    for section in sections_of(annotation):
        if section is Secret:
            continue
        yield f"\n{'#' * level} `{path}`\n\n{_flat(section.__doc__)}\n\n{_table(section)}"
        for key, inner in hints(section).items():
            yield from _sections(f"{path}.{key}", inner, min(level + 1, 6))


def _table(
    section: type[Section],
    *,
    only: list[str] | None = None,
    type_choices: list[str] | None = None,
) -> str:
    annotations = hints(section)
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in only or list(section.model_fields):
        field = section.model_fields[key]
        kind = type_text(annotations[key])
        if key == "type" and type_choices:
            kind = " or ".join(f"`{choice}`" for choice in type_choices)
        lines.append(f"| `{key}` | {kind} | {_default(field)} | {_flat(field.description)} |")
    return "\n".join(lines) + "\n"


def type_text(annotation: object) -> str:
    """A type as a reader of the page understands it."""
    for known, text in _NAMED_TYPES:
        if annotation == known:
            return text
    if get_origin(annotation) is Annotated:
        bare, *metadata = get_args(annotation)
        return type_text(bare) + _bounds(metadata)
    alternatives = _alternatives(annotation)
    if len(alternatives) > 1:
        return " or ".join(dict.fromkeys(type_text(a) for a in alternatives if a is not type(None)))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    if origin is Mapping:
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if annotation in _PLAIN_TYPES:
        return _PLAIN_TYPES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "mapping"
    return "any value"


def _alternatives(annotation: object) -> list[object]:
    arguments = get_args(annotation)
    is_union = get_origin(annotation) not in (None, Literal, tuple, Mapping)
    return list(arguments) if is_union else [annotation]


def _bounds(metadata: list[object]) -> str:
    low = high = above = None
    for item in metadata:
        for bound in item.metadata if isinstance(item, FieldInfo) else ():
            low, high = getattr(bound, "ge", low), getattr(bound, "le", high)
            above = getattr(bound, "gt", above)
    if low is not None and high is not None:
        return f", {low} to {high}"
    if low is not None:
        return f", {low} or more"
    return "" if above is None else f", above {above}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "null"
    if isinstance(value, Mapping) and any(isinstance(v, BaseModel) for v in value.values()):
        return "the built-in one"
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{json.dumps(value)}`"


def _flat(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")


if __name__ == "__main__":
    main()
