"""Conversations: each turn repeats what was said before, answers included."""

from __future__ import annotations

from openai import AsyncOpenAI
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessageParam

from tests.real.vllm.fleet import BASE
from tests.real.vllm.model import sentence


class Conversation:
    """A client that says something, and goes on from the answer."""

    def __init__(self, client: AsyncOpenAI, name: str, seed: int) -> None:
        self._client, self._name, self._seed = client, name, seed
        self._messages: list[ChatCompletionMessageParam] = []
        self.ids: list[str] = []

    async def turn(self, *, words: int = 60, max_tokens: int = 40) -> CompletionUsage:
        """What the next turn cost."""
        self._seed += 1
        self.ids.append(f"{self._name}-{len(self.ids)}")
        self._messages.append({"role": "user", "content": sentence(words, self._seed)})
        answer = await self._client.chat.completions.create(
            model=BASE,
            messages=self._messages,
            max_tokens=max_tokens,
            extra_headers={"x-request-id": self.ids[-1]},
        )
        text = answer.choices[0].message.content
        self._messages.append({"role": "assistant", "content": text})
        assert answer.usage is not None
        return answer.usage


def cached_of(usage: CompletionUsage) -> int:
    """Prompt tokens that the client is told were cached."""
    details = usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details is not None else 0
