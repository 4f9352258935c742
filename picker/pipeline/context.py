"""A request on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

from picker.decision import Answer, RequestHead
from picker.pool import PoolRuntime
from picker.prompt.blocks import Blocks
from picker.prompt.fields import RequestFields
from picker.prompt.forms import Form, Prompt
from policies.routing.types import Ranking

ANONYMOUS = "anonymous"


@dataclass(slots=True)
class RequestContext:
    """What is known of a request so far; each step fills in its part."""

    id: str
    head: RequestHead
    body: bytes
    form: Form | None
    """None: a path whose body is not read for a prompt."""
    tenant: str = ANONYMOUS

    # parse
    document: dict[str, object] | None = None
    fields: RequestFields | None = None
    prompt: Prompt | None = None
    # resolve
    asked_model: str = ""
    """Model name as the client gave it, "" when it gave none."""
    served_model: str = ""
    """Model name that the replica gets."""
    adapter: str = ""
    """LoRA adapter of that name, "" for a base model."""
    pool: PoolRuntime | None = None
    answer: Answer | None = None
    """Set by a step that answers the request itself; ends the pipeline."""
    # estimate
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    """Expected or declared output, tokens."""
    blocks: Blocks | None = None
    # schedule
    ranking: Ranking | None = None
    addresses: tuple[str, ...] = ()
    matched_tokens: float = 0.0
    """Of the first choice."""
    # mutate
    changed_body: bytes | None = None
    strip_usage: bool = False
    set_headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        """The client's or Envoy's request id, else ours."""
        return self.head.headers.get("x-request-id") or self.id

    @property
    def anthropic(self) -> bool:
        """Errors are told in Anthropic's shape."""
        return self.form is Form.ANTHROPIC
