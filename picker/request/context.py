"""A request on its way through the pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Final

import xxhash
from msgspec import Struct, field

from picker import names
from picker.prompt.blocks import Blocks
from picker.prompt.fields import RequestFields
from picker.prompt.forms import Form, Prompt
from picker.prompt.token_blocks import PromptTokens
from picker.request.answer import Answer, Decision
from picker.request.caller import UNKNOWN, Caller
from picker.request.choice import Choice
from picker.request.claim import Claim
from picker.request.grant import Grant
from picker.request.head import RequestHead
from picker.request.labels import RequestLabels
from picker.request.pick import Pick
from policies.flow.item import Item
from policies.limits.prices import MOST, NOTHING, Usage

_FORM: Final = re.compile(r"\s*multipart/form-data\s*(?:;|\Z)")
_MAX_USER_CHARS: Final = 64


class RequestContext(Struct):
    """What is known of a request so far; each step fills in its part."""

    id: str
    head: RequestHead
    form: Form | None
    """None: a path whose body is not read for a prompt."""
    body: bytes = b""
    patience_s: float = inf
    """How long the gateway waits for the decision."""
    on_wait: Callable[[float], object] | None = None
    """Called when the request begins to wait for its pool: for so many seconds at most."""
    marks: dict[str, float] = field(default_factory=dict)
    """Steps that are done, in their order, and when each was, picker's clock, seconds."""
    answer: Answer | None = None
    """Set by a step that answers the request itself; ends the pipeline."""

    # azure
    deployment: str = ""
    """Model that the path names, "" for none; it goes before the body's."""
    # identify
    caller: Caller = UNKNOWN
    # decode
    decoded: bool = False
    """The body came in another coding, or with a mark that is not part of it."""
    # parse
    heavy: bool = False
    """Work on its body takes long: see `picker.bodies.cost`."""
    document: dict[str, object] | None = None
    """The JSON body; of a heavy one without large members."""
    fields: RequestFields | None = None
    prompt: Prompt | None = None
    form_model: slice | None = None
    """Where a multipart form has the model's name."""
    asked_model: str = ""
    """Model name as the client gave it, "" when it gave none."""
    asked_adapters: tuple[str, ...] = ()
    """LoRA adapters that the client named beside the model; "" among them: the base model."""
    # recall
    response_id: str = ""
    """Stored response that the request is about, as its replica knows it, "" for none."""
    given_response_id: str = ""
    """The same, as the client knows it."""
    new_path: str | None = None
    """With the replica's own id in it; None: as it is."""
    holder: str = ""
    """Address of the replica that stores it."""
    # resolve
    served_model: str = ""
    """Model name that the replica gets."""
    billed_model: str = ""
    """Model name that limits and prices go by: of the catalogue, "" for none."""
    adapter: str = ""
    """LoRA adapter of that name, "" for a base model."""
    pool: str = ""
    session: str = ""
    """Key of the session the request belongs to, "" without one."""
    # count, estimate
    counted_tokens: int | None = None
    """Of the prompt's text, by the model's own tokenizer; None without one."""
    text_units: int = 0
    """Of the prompt's text: what its tokens are estimated from."""
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    """Expected or declared output, tokens."""
    blocks: Blocks | None = None
    tokens: PromptTokens | None = None
    """Of the prompt, as the engine will see them; None: not known (in time)."""
    claim: Claim | None = None
    """What we have made of it, where its engine might make something else."""
    expected: Usage = NOTHING
    """Its upper bound, as far as one is known; nothing: it counts as a request only."""
    answers: int = 1
    """Answers that it asks for, each with its own bound of tokens."""
    possible: Usage = MOST
    """What an engine can have used for it at most."""
    # reserve
    grant: Grant | None = None
    response_headers: tuple[tuple[str, str], ...] = ()
    # admit
    item: Item | None = None
    """As it waited for its pool; None: it did not."""
    # schedule
    picks: tuple[Pick, ...] = ()
    """One for each role; the last one answers the client."""
    choices: tuple[Choice, ...] = ()
    """What was weighed for each of them."""
    ask_shadow: Callable[[], None] | None = None
    """Asks the pool's shadow policy the same; None: it has none."""
    # mutate
    clamped_output_tokens: int | None = None
    """Bound of each answer in the place of what the client asked for; None: that stays."""
    changed_body: bytes | None = None
    model_changed: bool = False
    """The body names the served model where the client named another."""
    strip_usage: bool = False
    set_headers: list[tuple[str, str]] = field(default_factory=list)
    remove_headers: list[str] = field(default_factory=list)
    # decide
    decision: Decision | None = None

    @property
    def request_id(self) -> str:
        """The client's or Envoy's request id, else ours."""
        return self.head.headers.get(names.REQUEST_ID) or self.id

    @property
    def is_json(self) -> bool:
        """Its body should be JSON: engines read one without a content type so."""
        if self.form is not None:
            return True
        return bool(self.body) and "json" in self._content_type

    @property
    def is_form(self) -> bool:
        """Its body is a multipart form: audio and images come so."""
        return self.form is None and self.head.sends and bool(_FORM.match(self._content_type))

    @property
    def _content_type(self) -> str:
        return self.head.headers.get("content-type", "json").lower()

    @property
    def id_header(self) -> tuple[str, str]:
        """Response header with the request's id for Anthropic's clients."""
        return names.ANTHROPIC_REQUEST_ID, self.request_id

    @property
    def objective(self) -> str:
        """Name of the objective that the request is served under, "" for none."""
        return self.head.first_of(names.OBJECTIVE)

    @property
    def fairness_id(self) -> str:
        """Name of the share of a contended pool that the request counts against, "" for the
        tenant's."""
        return self.head.first_of(names.FAIRNESS_ID)

    @property
    def user(self) -> str:
        """User of the tenant: named by key or token, else by the body."""
        given = self.fields.user if self.fields is not None else None
        return self.caller.user or bounded(given or "")

    @property
    def session_id(self) -> str:
        """Session that the client names, "" for none: `x-session-id`, else the body's."""
        given = self.fields.session_id if self.fields is not None else None
        return bounded(self.head.headers.get(names.SESSION_ID) or given or "")

    @property
    def agent_id(self) -> str:
        """Agent that the client names, "" for none: `x-agent-id`, else the body's."""
        given = self.fields.agent_id if self.fields is not None else None
        return bounded(self.head.headers.get(names.AGENT_ID) or given or "")

    @property
    def names_model(self) -> bool:
        """It asks for a model, at a path that looks up nothing else."""
        return self.form is not None and bool(self.served_model) and not self.response_id

    @property
    def anthropic(self) -> bool:
        """Errors and lists of models have Anthropic's shape."""
        return self.form is Form.ANTHROPIC or names.ANTHROPIC_VERSION in self.head.headers

    def took_s(self, step: str) -> float:
        """Seconds that a step took, 0 when it has not run."""
        if step not in self.marks:
            return 0.0
        before_s = self.head.received_s
        for name, done_s in self.marks.items():
            if name == step:
                break
            before_s = done_s
        return self.marks[step] - before_s

    def waited_s(self, now_s: float) -> float:
        """Seconds that it has waited for its pool, 0 when it did not have to."""
        if self.item is None:
            return 0.0
        return self.took_s("admit") if "admit" in self.marks else now_s - self.item.arrived_s

    def labels(self) -> RequestLabels:
        """Who asked for what, as far as it is known."""
        return RequestLabels(
            request_id=self.request_id,
            tenant=self.caller.tenant,
            key=self.caller.key,
            user=self.user,
            model=self.asked_model,
            pool=self.pool,
            path=self.head.path,
            objective=self.objective,
            fairness_id=self.fairness_id,
            priority=self.caller.policy.priority if self.item is None else self.item.priority,
        )


def bounded(user: str) -> str:
    """A user's name as limits, accounts and logs keep it: a long one as its digest."""
    if len(user) <= _MAX_USER_CHARS:
        return user
    return xxhash.xxh3_128_hexdigest(user.encode("utf-8", "surrogatepass"))
