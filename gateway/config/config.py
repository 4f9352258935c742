"""The whole configuration, checked."""

from __future__ import annotations

import json
from typing import Self

from pydantic import model_validator

from gateway.config.checks.sections import check_sections
from gateway.config.schema.fault import raise_faults
from gateway.config.schema.sections import Sections


class Config(Sections):
    """Configuration of Penstock: one YAML file."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        raise_faults("configuration", check_sections(self))
        return self


def schema_json() -> str:
    """The JSON Schema (2020-12) of the configuration file, for editors."""
    schema = Config.model_json_schema()
    return json.dumps(
        {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, indent=2
    )
