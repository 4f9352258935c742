"""Tenants and limits that are not in the file: what an operator makes at run time, as JSON.

They are checked as the file is, against the configuration in force.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from gateway.config.checks.tenancy import limit_faults, tenant_faults
from gateway.config.config import Config
from gateway.config.reading.load import problems_of
from gateway.config.reading.problems import ConfigError
from gateway.config.reading.source import parse
from gateway.config.schema.limits import Limit
from gateway.config.schema.section import Fault, Section, raise_faults
from gateway.config.schema.tenancy import Tenant, repeated_names
from gateway.config.schema.terms import ModelPattern

S = TypeVar("S", bound=Section)
_NOWHERE: Final = Path("-")
_UNPRINTABLE: Final = re.compile(
    "[^ -~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


class KeyRules(Section):
    """What holds for an API key alone."""

    models: tuple[ModelPattern, ...] = ("*",)
    """Patterns of the models that it may use, within those of its tenant."""
    limits: tuple[Limit, ...] = ()
    """Limits of this key alone."""


def tenant_from(document: Mapping[str, object], config: Config) -> Tenant:
    """A tenant from its JSON form, that of the configuration without ``keys``.

    Raises ConfigError with every problem: their `key` is a path in the document, such as
    ``limits[0].period``, and their line is 0.
    """
    tenant = _read(Tenant, document)
    faults = list(tenant_faults(config, tenant))
    if tenant.keys:
        faults.append(Fault(("keys",), "none: keys are made one by one", got="keys"))
    _refuse(Tenant, document, faults)
    return tenant


def key_rules_from(
    models: Sequence[str], limits: Sequence[Mapping[str, object]], config: Config
) -> KeyRules:
    """Models and limits of an API key, the limits from their JSON form.

    Raises ConfigError as `tenant_from` does; keys begin with ``models`` or ``limits``.
    """
    document: Mapping[str, object] = {"models": list(models), "limits": list(limits)}
    rules = _read(KeyRules, document)
    faults = [*repeated_names(rules.limits), *limit_faults(config, rules.limits)]
    _refuse(KeyRules, document, faults)
    return rules


def stale(tenant: Tenant, config: Config) -> list[str]:
    """What does not fit the configuration (any more) in a tenant that was accepted once, such as
    a plan that is gone: a line for each, for the log."""
    return [_line(fault) for fault in tenant_faults(config, tenant)]


def _line(fault: Fault) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.at)
    return f"{key.removeprefix('.')}: expected {fault.expected}"


def _read(section: type[S], document: Mapping[str, object]) -> S:
    try:
        return section.model_validate_json(_text(document))
    except ValidationError as error:
        raise _error(error, section, document) from None


def _refuse(section: type[Section], document: Mapping[str, object], faults: list[Fault]) -> None:
    try:
        raise_faults(section.__name__, faults)
    except ValidationError as error:
        raise _error(error, section, document) from None


def _error(
    error: ValidationError, section: type[Section], document: Mapping[str, object]
) -> ConfigError:
    """JSON is YAML, so the problems are told by the same means; lines in it say nothing."""
    source = parse(_NOWHERE, _text(document))
    problems = problems_of(error, source, section)
    return ConfigError([replace(problem, line=0, column=0) for problem in problems])


def _text(document: Mapping[str, object]) -> str:
    """JSON that is YAML too: what YAML takes for not printable is escaped."""
    text = json.dumps(document, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
