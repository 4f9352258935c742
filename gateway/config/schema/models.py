"""Aliases and weighted rewrites of model names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.schema.section import Section
from gateway.config.schema.terms import ModelName, Name


class ModelTarget(Section):
    """A model that a model name leads to."""

    model: ModelName
    """Base model or adapter, as the replicas call it."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Share of the requests, relative to the other targets' weights."""
    pool: Name | None = None
    """Pool to use. Null: any that serves the model."""


class ModelRule(Section):
    """A model name that clients may use, and what it leads to. Rules apply once: a target is
    what replicas serve, never another rule's name."""

    name: ModelName
    """Model name in the request, compared exactly. `*`: every request for which no other rule
    fits and whose model no pool serves, also one without a model."""
    targets: Annotated[tuple[ModelTarget, ...], Field(min_length=1)]
    """One or several models; weights split the requests."""
