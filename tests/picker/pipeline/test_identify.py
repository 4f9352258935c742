"""Who sent the request."""

from __future__ import annotations

from picker.pipeline.identify import Identify
from picker.request.caller import UNKNOWN, Caller
from picker.request.head import RequestHead
from picker.request.rejection import Reason, Rejection
from policies.limits.plan import TenantPolicy
from tests.picker.pipeline.steps import begun, refusal, take

ACME = Caller(TenantPolicy("acme"), key="k1")


class Door:
    """Lets in who has a key, and knows the tenant of who has a bad one."""

    def identify(self, head: RequestHead) -> Caller:
        match head.headers.get("x-key"):
            case "good":
                return ACME
            case "disabled":
                raise Rejection(Reason.TENANT_DISABLED, "disabled", caller=ACME)
        raise Rejection(Reason.INVALID_API_KEY, "who are you?")


async def test_the_caller_is_kept() -> None:
    context = begun(x_key="good")
    await take(Identify(Door()), context)
    assert context.caller is ACME


async def test_whom_the_gate_turns_away_is_named_in_the_log_where_it_knows() -> None:
    for key, caller in (("disabled", ACME), ("bad", UNKNOWN)):
        context = begun(x_key=key)
        reason = Reason.TENANT_DISABLED if key == "disabled" else Reason.INVALID_API_KEY
        await refusal(Identify(Door()), context, reason)
        assert context.caller is caller
