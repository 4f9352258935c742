"""Where limits are counted and usage is kept, and how tokens are counted before the engine does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, Tag

from gateway.config.schema.fault import Fault
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

    def faults(self) -> Iterator[Fault]:
        """The order of the numbers."""
        if self.max < self.min:
            yield Fault(("max",), f"at least `min`, {self.min}")
        elif not self.min <= self.prior <= self.max:
            yield Fault(("prior",), f"a number from `min` to `max`: {self.min} to {self.max}")


class ModelTokenizer(Section):
    """The tokenizer of a model, for exact counts of prompts before they are sent."""

    model: ModelPattern
    """Pattern of the models it is for, as replicas call them; the first that fits counts."""
    file: ConfigPath | None = None
    """A `tokenizer.json` in Hugging Face's format, or a vocabulary of tiktoken (`*.tiktoken`);
    relative to the configuration file. With the chat template beside it, the former makes the
    tokens that replicas' prefix caches are looked through for."""
    encoding: str | None = None
    """Instead of a file: one of tiktoken's own, such as `o200k_base`. It is downloaded at the first
    use, or found in the folder that `TIKTOKEN_CACHE_DIR` names."""

    def faults(self) -> Iterator[Fault]:
        """One of the two."""
        if (self.file is None) == (self.encoding is None):
            yield Fault(("file",), "either `file` or `encoding`")


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
    """For exact counts of prompt tokens before they are sent: about 0.1 ms for each kB of prompt
    with byte-level BPE, which tiktoken counts, else about 0.5 ms. `[]`: tokens are estimated from
    bytes, by a ratio of the tenant's own that starts at 4 bytes a token and that the engines'
    counts calibrate. Needs `penstock[tokenizers]`."""
    count_by_engine: bool = True
    """Where no tokenizer is named, the engine's `/tokenize` counts the prompts whose estimate would
    not do: larger than a limit can ever grant, of a tenant whose estimates were wrong by half, or
    of a stream that its client left before its usage came."""
    usage_days: Annotated[int, Field(ge=1, le=3_660)] = 400
    """Time that usage is kept, days."""
    max_users_per_day: Count = 10_000
    """Users of a tenant whose usage is kept separately each day; further ones are counted
    together."""
