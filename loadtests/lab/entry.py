"""How a simulated request enters the live picker: what stands in for a body and an event loop."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from loadtests.lab.agenda import Agenda
from loadtests.lab.setting import Setting
from loadtests.workloads.sessions import Request
from loadtests.workloads.words import BYTES_PER_TOKEN
from picker import names
from picker.prompt.blocks import HASH_MASK
from picker.prompt.fields import RequestFields
from picker.prompt.forms import Prompt
from picker.prompt.token_blocks import PromptTokens
from picker.request.caller import Caller
from picker.request.context import RequestContext
from picker.request.head import RequestHead
from policies.limits.plan import TenantPolicy

MODEL: Final = "model"


class ReadAsked:
    """Fills in what parsing a body would, and who asks: see `picker.pipeline.steps.Tools.read`."""

    def __init__(self, setting: Setting) -> None:
        self._tenants = setting.tenants
        self._block_tokens = setting.limits.block_size_tokens if setting.kv_events else None
        """Of the engines' blocks, None when the tokens of prompts are not known."""
        self.asked: Request | None = None
        """The request that is being offered."""

    def head(self, asked: Request, now_s: float) -> RequestHead:
        """The headers of a request that comes."""
        headers = {names.SESSION_ID: asked.session} if asked.session else {}
        if (tenant := self._tenants.get(asked.tenant)) is not None and tenant.objective:
            headers[names.OBJECTIVE[0]] = tenant.objective
        return RequestHead("POST", "/v1/completions", headers, None, now_s)

    def __call__(self, context: RequestContext) -> None:
        asked = self.asked
        assert asked is not None
        context.asked_model = asked.adapter or MODEL
        context.fields = RequestFields(
            model=context.asked_model,
            stream=True,
            include_usage=True,
            max_output_tokens=asked.max_tokens,
            choices=1,
            cache_salt=None,
            user=None,
            session_id=None,
        )
        if asked.tenant:
            known = self._tenants.get(asked.tenant)
            policy = TenantPolicy(asked.tenant) if known is None else known.policy(asked.tenant)
            context.caller = Caller(policy)
        context.prompt = Prompt((b"",), asked.prompt_tokens * BYTES_PER_TOKEN, 0)
        context.blocks = asked.live_blocks(MODEL)
        size = self._block_tokens
        if size is not None:
            ids = asked.block_ids(size)[: asked.prompt_tokens // size]
            chain = [block_id & HASH_MASK for block_id in ids]
            context.tokens = PromptTokens.of_chain(chain, size, asked.prompt_tokens)


class SimulatedHold:
    """See `Hold`: a coroutine that waits for one yields it."""

    def __init__(self) -> None:
        self.released: Callable[[], None] | None = None
        self._free = False

    def release(self) -> None:
        """See `Hold`."""
        if not self._free and self.released is not None:
            self.released()
        self._free = True

    def __await__(self) -> Generator[SimulatedHold, None, None]:
        if not self._free:
            yield self


class SimulatedHolding:
    """See `Holding`."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda

    def hold(self) -> SimulatedHold:
        """See `Holding`."""
        return SimulatedHold()

    def call_at(self, at_s: float, act: Callable[[], None]) -> None:
        """See `Holding`."""
        self._agenda.at(max(at_s, self._agenda.now_s), act)
