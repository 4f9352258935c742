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

from gateway.config.config import Config
from gateway.config.schema.limit import Limit
from gateway.config.schema.pools import ProcessPool, SimulatedPool, StaticPool
from gateway.config.schema.pricing import Weights
from gateway.config.schema.secret import Secret
from gateway.config.schema.section import Section
from gateway.config.schema.walk import hints, item_of, members, sections_of
from policies.limits.expression import FUNCTIONS, VARIABLES

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "configuration.md"
EXAMPLE: Final = ROOT / "deploy" / "examples" / "complete.yaml"
TENANTS_EXAMPLE: Final = ROOT / "deploy" / "examples" / "tenants.yaml"

_PLAIN_TYPES: Final[Mapping[object, str]] = {
    str: "text",
    bool: "true or false",
    int: "integer",
    float: "number",
    Path: "path",
    Secret: "[secret](#secrets)",
    Limit: "[limit](#limit)",
    Weights: "[weights](#weights)",
}
_ELSEWHERE: Final = (Secret, Limit, Weights)
"""Sections that several keys have: described once, and linked to."""
_POOLS: Final = (StaticPool, SimulatedPool, ProcessPool)

_INTRO: Final = """\
# Configuration

<!-- Made by `python -m gateway.config.reference` from gateway/config; edit that, not this page. -->

Penstock reads one YAML file: `penstock up -c FILE`.

- `penstock config check FILE` lists every problem in it, with line, key, what was found and what
  would be right. `penstock config schema` prints its JSON Schema, for editors.
- The file is watched. A change is checked and put into force without a restart; a wrong one is
  refused with the same messages, and the configuration in force stays.
- Unknown and repeated keys are errors. Values are not converted: `"8080"` is text, not a number.
  Only `true` and `false` are booleans; `on`, `off`, `yes` and `no` are text.
- Names end with their unit: `_s` seconds, `_bytes` bytes. Counts of tokens say so in their text.
- Relative paths start from the folder of the configuration file.

## Secrets

A secret is never written into the file. The file only says where to find it:

| key | type | meaning |
|---|---|---|
"""

_LITELLM: Final = """
Limits that you may know from other gateways:

| there | here |
|---|---|
| `rpm_limit`, requests per minute | `{count: requests, limit: N, period: minute}` |
| `tpm_limit`, tokens per minute | `{count: total_tokens, limit: N, period: minute}` |
| `max_parallel_requests` | `{count: concurrency, limit: N}` |
| `max_budget` of a month | `{count: cost, limit: N, period: month, window: calendar}` |
| `max_budget` of a day | `{count: cost, limit: N, period: day, window: calendar}` |
| a budget of each end user | `{count: cost, limit: N, period: month, by: [user]}` |
| `model_rpm_limit`, `model_tpm_limit` | `by: [model]` for each model, `models: [NAME]` for one |
| limits of a virtual key | `limits` of the key, or `by: [key]` for each key |

A budget of a day or a month goes by the calendar, also without `window`: all of it is there again
at 0:00 UTC. With `window: rolling` it refills continuously instead: of 30 a month, 1 comes back
each day. Add a limit for the whole tenant to a limit by user: with an API key, the client itself
names the user.
"""

_CEL: Final = """
### CEL

An expression of the [Common Expression Language](https://cel.dev) over {names}: whole numbers of
one request, where cached ones are part of the input and reasoning ones of the output. Beside CEL's
operators there are {functions}. Whole numbers and fractions do not mix: write
`double(input_tokens) * 0.000003`, and `1.0` beside a fraction. A price that rises with the context:

```yaml
cel: >-
  double(input_tokens) * (input_tokens > 200000 ? 0.000006 : 0.000003)
  + double(output_tokens) * 0.000015
```

When the file is loaded, every expression is tried on some hundred usages, among them usages on both
sides of every whole number in it. One that fails or is negative for any of them is refused. When it
fails later nevertheless, the request counts 0, an error is logged and a metric counts it.
"""


def render() -> str:
    """The whole page, Markdown."""
    parts = [
        _INTRO + _secret_rows(),
        f"\n## Example\n\n```yaml\n{EXAMPLE.read_text().strip()}\n```\n",
        _tenants_example(),
        "\n## Keys\n\n" + _table(Config),
    ]
    for key, annotation in hints(Config).items():
        if key == "pools":
            parts.append(_pools(annotation))
        else:
            parts += _sections(key, annotation, level=3)
        if key == "pricing":
            parts.append(_shared("Weights", Weights) + _cel())
        elif key == "tenants":
            parts.append(_shared("Limit", Limit) + _LITELLM)
    return "".join(parts)


def _tenants_example() -> str:
    text = TENANTS_EXAMPLE.read_text().strip()
    return f"\nTenants, API keys, limits and prices:\n\n```yaml\n{text}\n```\n"


def _shared(title: str, section: type[Section]) -> str:
    return f"\n### {title}\n\n{_flat(section.__doc__)}\n\n{_table(section)}"


def _cel() -> str:
    names = ", ".join(f"`{name}`" for name in VARIABLES)
    functions = ", ".join(f"`{name}`" for name in FUNCTIONS)
    return _CEL.format(names=names, functions=functions)


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
    for key in common:
        text += "".join(_sections(f"pools[].{key}", hints(StaticPool)[key], level=4))
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
        if section in _ELSEWHERE:
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
    if get_origin(annotation) is Annotated:
        bare, *metadata = get_args(annotation)
        named = [text for text in metadata if isinstance(text, str)]
        return named[-1] if named else type_text(bare) + _bounds(metadata)
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
    if above is None:
        return ""
    return f", above {above}" if high is None else f", above {above}, at most {high}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "null"
    if isinstance(value, Mapping) and any(isinstance(v, BaseModel) for v in value.values()):
        return "the built-in ones"
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, tuple):
        value = list(value)
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
