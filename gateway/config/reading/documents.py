"""Tenants and limits that an operator makes at run time, as JSON: they are not in the file, and
are checked as the file is, against the configuration in force."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from gateway.config.checks.tenancy import limit_faults, tenant_faults
from gateway.config.config import Config
from gateway.config.reading.problems import ConfigError, Problem
from gateway.config.reading.refusals import problem_of, problems_of
from gateway.config.reading.yaml_file import YamlFile, parse
from gateway.config.schema.fault import Fault, key_path
from gateway.config.schema.limit import Limit
from gateway.config.schema.section import Section
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
    """Patterns of the models that it may use, among those of its tenant."""
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
    _refuse(document, faults)
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
    _refuse(document, faults)
    return rules


def stale(tenant: Tenant, config: Config) -> list[str]:
    """What no longer fits the configuration in a tenant that was accepted once, such as a plan
    that is gone: a line for each, for the log."""
    faults = tenant_faults(config, tenant)
    return [f"{key_path(fault.at)}: expected {fault.expected}" for fault in faults]


def _read(section: type[S], document: Mapping[str, object]) -> S:
    try:
        return section.model_validate_json(_text(document))
    except ValidationError as error:
        raise _error(problems_of(error, _parsed(document), section)) from None


def _refuse(document: Mapping[str, object], faults: Sequence[Fault]) -> None:
    if faults:
        parsed = _parsed(document)
        raise _error(problem_of(fault, parsed) for fault in faults)


def _error(problems: Iterable[Problem]) -> ConfigError:
    """Lines in a JSON document mean nothing to its author."""
    return ConfigError([replace(problem, line=0, column=0) for problem in problems])


def _parsed(document: Mapping[str, object]) -> YamlFile:
    """JSON is YAML, so that problems are found and described by the same means."""
    return parse(_NOWHERE, _text(document))


def _text(document: Mapping[str, object]) -> str:
    """JSON that is YAML too: characters that YAML takes for not printable are escaped."""
    text = json.dumps(document, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
