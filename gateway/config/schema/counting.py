"""Where limits are counted and usage is kept, and how tokens are counted before the engine does."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from gateway.config.schema.fault import Fault, raise_faults
from gateway.config.schema.redis import RedisChoice
from gateway.config.schema.section import ConfigPath, Section, by_shape
from gateway.config.schema.terms import Count, ModelPattern
from policies.limits.estimate import MAX_OUTPUT_TOKENS


class OutputQuantileSection(Section):
    """How many output tokens are reserved for a request: a quantile of what the tenant's recent
    requests for the model generated, and at most what the request allows (`max_tokens`)."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of requests that should generate no more than what was reserved."""
    min: Annotated[int, Field(ge=0, le=MAX_OUTPUT_TOKENS)] = 16
    """Least to reserve, tokens."""
    max: Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)] = 16_384
    """Most to reserve, tokens."""
    prior: Annotated[int, Field(ge=0, le=MAX_OUTPUT_TOKENS)] = 1_024
    """Reserved while there are too few requests to learn from, tokens."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        faults = []
        if self.max < self.min:
            faults.append(Fault(("max",), f"at least `min`, {self.min}"))
        elif not self.min <= self.prior <= self.max:
            faults.append(
                Fault(("prior",), f"a number from `min` to `max`: {self.min} to {self.max}")
            )
        raise_faults("output_quantile", faults)
        return self


class ModelTokenizer(Section):
    """The tokenizer of a model, for exact counts of prompts before they are sent."""

    model: ModelPattern
    """Pattern of the models it is for, as replicas call them; the first that fits counts."""
    file: ConfigPath
    """A `tokenizer.json` in Hugging Face's format; relative to the configuration file."""


class Limits(Section):
    """Where limits are counted and usage is kept."""

    store: Annotated[
        Annotated[Literal["memory"], Tag("<word>")] | Annotated[RedisChoice, Tag("<redis>")],
        by_shape(RedisChoice, "<redis>", "<word>"),
    ] = "memory"
    """memory: in the picker, for `picker.workers: 1`; usage is written to `state_dir`. Or
    `{redis: {url: ...}}`."""
    lease_s: Annotated[float, Field(ge=1)] = 60.0
    """What the requests of a crashed picker held of limits is given back after this time, seconds.
    Running requests renew it."""
    output_quantile: OutputQuantileSection = OutputQuantileSection()
    """How many output tokens are reserved."""
    tokenizers: tuple[ModelTokenizer, ...] = ()
    """For exact counts of prompt tokens, which take about 0.5 ms for each kB of prompt. `[]`:
    tokens are estimated from bytes, by a ratio that starts at 4 bytes a token and that the
    engines' own counts calibrate. Needs `penstock[tokenizers]`."""
    usage_days: Annotated[int, Field(ge=1, le=3_660)] = 400
    """Time that usage is kept, days."""
    max_users_per_day: Count = 10_000
    """Users of a tenant whose usage is kept separately each day; further ones are counted
    together."""
