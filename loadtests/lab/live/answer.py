"""An answer that streams in: server-sent events of the OpenAI API, and when their tokens came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import orjson

_SAID_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class AnswerUsage:
    """Tokens as the server counts them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    """Part of the prompt; None: the server does not report it."""


@dataclass(slots=True)
class StreamedAnswer:
    """What has come of an answer so far. Times are those given to `feed`."""

    first_token_at: float | None = None
    last_token_at: float | None = None
    """Time of the last event with text, or of the event with the reason why the answer ends. That
    event comes with the last token: with `ignore_eos`, tokens after the end of the text have no
    text to show."""
    token_events: int = 0
    """Events with text or reasoning; as many as tokens when the server sends each token by
    itself."""
    usage: AnswerUsage | None = None
    finished: bool = False
    """The server has sent its end mark."""
    error: str = ""
    """The kind of failure in the stream itself, "" for none."""
    said: str = ""
    """The server's message about the failure."""
    _texts: list[str] = field(default_factory=list)
    _rest: bytes = b""

    @property
    def text(self) -> str:
        """The whole text without reasoning; the next turn repeats it."""
        return "".join(self._texts)

    @property
    def problem(self) -> str:
        """Why the answer is not whole; "" when it is."""
        return self.error or ("" if self.finished else "the stream broke off")

    def feed(self, data: bytes, at: float) -> None:
        """Take in bytes of the body, wherever they are cut."""
        if self._rest:
            data = self._rest + data
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), at)

    def _event(self, data: bytes, at: float) -> None:
        if data == b"[DONE]":
            self.finished = True
            return
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.error = self.error or "an event that is not JSON"
            return
        if not isinstance(event, dict):
            return
        if event.get("error"):
            self.error, self.said = self.error or "an error event", self.said or said(data)
            return
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.usage = _usage(usage)
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._choice(choice, at)

    def _choice(self, choice: dict[str, object], at: float) -> None:
        delta = choice.get("delta")
        text, thought = choice.get("text"), None
        if isinstance(delta, dict):
            text = delta.get("content")
            thought = delta.get("reasoning") or delta.get("reasoning_content")
        if isinstance(text, str) and text:
            self._texts.append(text)
        if text or thought:
            self.token_events += 1
        elif not choice.get("finish_reason"):
            return
        self.last_token_at = at
        if self.first_token_at is None:
            self.first_token_at = at


def said(body: bytes) -> str:
    """The message of an error in OpenAI's or FastAPI's form, or else the beginning of the body."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    text = found if isinstance(found, str) else body.decode(errors="replace")
    return " ".join(text.split())[:_SAID_CHARACTERS]


def _usage(told: dict[str, object]) -> AnswerUsage:
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return AnswerUsage(
        _number(told.get("prompt_tokens")),
        _number(told.get("completion_tokens")),
        cached if isinstance(cached, int) else None,
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
