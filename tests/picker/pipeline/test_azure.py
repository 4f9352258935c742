"""Azure's spelling of OpenAI's paths."""

from __future__ import annotations

import orjson
import pytest

from picker.pipeline.azure import ReadDeployment
from picker.prompt.forms import Form
from picker.request.rejection import Reason
from picker.settings import RewriteRule, RewriteTarget
from tests.picker.fleet import MODEL, Fleet, chat, decided, fleet, head, refused
from tests.picker.pipeline.steps import begun, take


@pytest.mark.parametrize(
    ("given", "model", "path", "form"),
    [
        ("/openai/deployments/gpt/chat/completions", "gpt", "/v1/chat/completions", Form.CHAT),
        ("/openai/deployments/a/b/completions", "a/b", "/v1/completions", Form.COMPLETIONS),
        ("/openai/deployments/e/embeddings/", "e", "/v1/embeddings", Form.EMBEDDINGS),
        ("/openai/deployments/w/audio/transcriptions", "w", "/v1/audio/transcriptions", None),
        ("/openai/deployments/i/images/edits", "i", "/v1/images/edits", None),
        ("/openai/v1/chat/completions", "", "/v1/chat/completions", Form.CHAT),
        ("/openai/responses", "", "/v1/responses", Form.RESPONSES),
        ("/openai/models", "", "/v1/models", None),
        ("/openai/deployments/x", "", "/openai/deployments/x", None),
        ("/openai/deployments//chat/completions", "", "/openai/deployments//chat/completions",
            Form.CHAT),
        ("/v1/openai/deployments/gpt/completions", "", "/v1/openai/deployments/gpt/completions",
            Form.COMPLETIONS),
    ],
)  # fmt: skip
async def test_paths(given: str, model: str, path: str, form: Form | None) -> None:
    context = begun(given)
    await take(ReadDeployment(), context)
    assert (context.deployment, context.head.path, context.form) == (model, path, form)
    assert (context.head.respelled is None) == (given == path)


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("?api-version=2024-10-21", ""),
        ("?a=1&api-version=2024-10-21&b=%20", "?a=1&b=%20"),
        ("", ""),
    ],
)
async def test_the_query_goes_on_without_the_version(query: str, sent: str) -> None:
    context = begun("/openai/v1/models/a b")
    context.head.headers[":path"] += query  # type: ignore[index]  # a dict of ours
    await take(ReadDeployment(), context)
    assert context.head.respelled == "/v1/models/a%20b" + sent


def _aliased() -> Fleet:
    made = fleet()
    made.configure(rewrites=[RewriteRule("gpt", (RewriteTarget(MODEL),))])
    return made


@pytest.mark.parametrize("body", [chat(model=None), chat(model="gpt"), chat(model="something")])
async def test_the_paths_model_goes_before_the_bodys(body: bytes) -> None:
    request = head("/openai/deployments/gpt/chat/completions")
    decision = await decided(_aliased(), body, request)
    assert decision.body is not None
    assert orjson.loads(decision.body)["model"] == MODEL
    assert decision.rename == (MODEL, "gpt")
    assert (":path", "/v1/chat/completions") in decision.set_headers


async def test_a_served_model_needs_no_alias() -> None:
    request = head(f"/openai/deployments/{MODEL}/chat/completions")
    assert (await decided(fleet(), chat(), request)).body is None
    other = await decided(fleet(), chat(model="x"), request)
    assert other.body is not None
    assert orjson.loads(other.body)["model"] == MODEL
    assert other.rename is None


async def test_an_unknown_deployment_is_404() -> None:
    answer = await refused(fleet(), chat(), head("/openai/deployments/none/chat/completions"))
    assert answer.status == Reason.MODEL_NOT_FOUND.value.status
