"""``penstock explain``: why a request went where it went, and what came of it."""

from __future__ import annotations

from typing import Annotated, Final, cast

import typer

from gateway.commands.api import LOCAL, Api, Document, TokenFile, Url, at
from gateway.commands.output import AsJson, number, say, show_json, show_table

_ENDS: Final = {
    "ok": "It was answered",
    "http_error": "The replica answered with an error",
    "client_aborted": "The client left",
    "upstream_error": "The replica could not be reached, or broke off",
    "engine_error": "The answer was or ended in an error of the engine",
    "no_output": "The answer ended without any output",
    "unreported": "Its end was never reported",
}


def explain(
    request_id: Annotated[
        str, typer.Argument(help="What the response has in x-request-id.", show_default=False)
    ],
    url: Url = LOCAL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show why a request went where it went, and what came of it.

    Each picker remembers its last 10,000 decisions and 2,000 refusals.
    """
    document = Api.at(url, token_file).get(at("decisions", request_id))
    if as_json:
        show_json(document)
        return
    decisions = cast("list[Document]", document["decisions"])
    for place, decision in enumerate(decisions):
        if place:
            say("")
        _show(decision)
    for silent in cast("list[str]", document["silent"]):
        say(f"Not all pickers could be asked: {silent}")


def _show(decision: Document) -> None:
    whose = [f"tenant {decision['tenant']}"] if decision["tenant"] else []
    whose += [f"{what} {decision[what]}" for what in ("model", "pool") if decision[what]]
    say(f"{decision['request_id']}: {', '.join((*whose, str(decision['decided_at'])))}")
    if decision["state"] == "refused":
        refusal = cast("Document", decision["refusal"])
        say(f"Refused with {refusal['status']} {refusal['code']}: {refusal['message']}")
        _show_left_out(refusal)
        return
    say(
        f"About {number(decision['prompt_tokens'])} prompt tokens,"
        f" {number(decision['predicted_cached_tokens'])} of them expected in the cache."
    )
    for choice in cast("list[Document]", decision["choices"]):
        _show_choice(choice)
    _show_result(decision)


def _show_choice(choice: Document) -> None:
    part = "" if choice["role"] == "both" else f" for {choice['role']}"
    say("")
    say(f"{choice['policy']} chose {choice['endpoint']}{part}. {choice['why']}")
    rows = [_row(row) for row in cast("list[Document]", choice["candidates"])]
    if rows:
        say("")
        show_table(
            (
                *("", "candidate", ">score", ">TTFT", ">token", ">harm", ">cached"),
                *(">backlog", ">in flight", ">queued"),
            ),
            rows,
        )
        more = cast("int", choice["candidates_total"]) - len(rows)
        if more > 0:
            say(f"and {more:,} more candidates")
    _show_left_out(choice)
    shadow = choice["shadow"]
    if isinstance(shadow, dict):
        _show_shadow(shadow)


def _row(row: Document) -> tuple[str, ...]:
    order = row["order"]
    return (
        "" if order is None else f"{order}.",
        str(row["endpoint"]),
        "" if row["score"] is None else f"{row['score']:.4g}",
        _time(row["predicted_ttft_ms"]),
        _time(row["predicted_tpot_ms"]),
        _time(row["harm_ms"]),
        *(
            number(row[key])
            for key in (
                *("matched_tokens", "backlog_tokens"),
                *("in_flight_requests", "waiting_requests"),
            )
        ),
    )


def _show_left_out(found: Document) -> None:
    left_out = cast("list[Document]", found["left_out"])
    total = cast("int", found["left_out_total"])
    if total:
        say("")
        say("No candidate was:")
        show_table(
            ("replica", "why", "reason"),
            [(str(one["endpoint"]), str(one["why"]), str(one["reason"])) for one in left_out],
        )
        if total > len(left_out):
            say(f"and {total - len(left_out):,} more")


def _show_shadow(shadow: Document) -> None:
    say("")
    if shadow["failure"] is not None:
        say(f"Shadow {shadow['policy']} failed: {shadow['failure']}")
        return
    does = "chose the same" if shadow["agrees"] else f"would have chosen {shadow['endpoint']}"
    expected = ""
    if shadow["predicted_ttft_ms"] is not None:
        expected = f", first token expected after {_time(shadow['predicted_ttft_ms'])}"
    say(f"Shadow {shadow['policy']} {does}{expected}.")


def _show_result(decision: Document) -> None:
    say("")
    result = decision["result"]
    if not isinstance(result, dict):
        dropped = decision["state"] == "dropped"
        say("It was never sent: the picker failed." if dropped else "It is still under way.")
        return
    where = f" by {result['endpoint']}" if result["endpoint"] else ""
    status = f" with status {result['status']}" if result["status"] else ""
    say(
        f"{_ENDS.get(str(decision['state']), str(decision['state']))}{where}{status} after"
        f" {_time(result['duration_ms'])}."
    )
    for what, key in (("First token after", "ttft"), ("Each further token", "tpot")):
        if result[f"{key}_ms"] is not None:
            said = f"{what} {_time(result[f'{key}_ms'])}"
            predicted = decision[f"predicted_{key}_ms"]
            say(said + (f", predicted {_time(predicted)}." if predicted is not None else "."))
    tries = cast("list[Document]", result["tries"])
    if len(tries) > 1:
        said = "; ".join(f"{one['endpoint']}: {one['outcome']}" for one in tries)
        say(f"It was tried at {len(tries)} replicas: {said}.")
    if result["input_tokens"] is not None or result["output_tokens"] is not None:
        say(
            f"Tokens: {_count(result['input_tokens'])} in, {_count(result['cached_tokens'])} of"
            f" them cached, {_count(result['output_tokens'])} out."
        )
    if result["charged_input_tokens"] is not None:
        say(
            f"Charged: {_count(result['charged_input_tokens'])} in,"
            f" {_count(result['charged_output_tokens'])} out."
        )


def _count(value: object) -> str:
    return "unknown" if value is None else number(value)


def _time(milliseconds: object) -> str:
    if not isinstance(milliseconds, int | float):
        return ""
    if abs(milliseconds) >= 1000:
        return f"{milliseconds / 1000:,.2f} s"
    return f"{milliseconds:.3g} ms"
