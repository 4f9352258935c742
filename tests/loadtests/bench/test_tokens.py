"""The replicas and clients of the figure of streamed tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtests.bench.tokens.answers import Api, Order, stream
from loadtests.bench.tokens.clients import ask_all
from loadtests.bench.tokens.proxies import replicas


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with replicas(tmp_path_factory.mktemp("tokens")) as ports:
        yield ports[0]


@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize("asks_usage", [True, False])
def test_a_stream_has_the_tokens_that_were_ordered(port: int, api: Api, asks_usage: bool) -> None:
    got = ask_all(port, Order(api, 2, 20, asks_usage=asks_usage), clients=3)
    sent = stream(api, with_usage=asks_usage)
    around = (sent.opening + sent.end).count(b"\n\n")
    assert (got.answers, got.events) == (3, 3 * (20 + around))
    assert 0 < got.reads <= got.events


def test_whole_answers_have_the_size_that_was_ordered(port: int) -> None:
    got = ask_all(port, Order(Api.CHAT, 0, 50_000), clients=2, each=3)
    assert (got.answers, got.reads) == (6, 0)
    assert got.content_bytes / 6 == pytest.approx(50_000, rel=0.01)


def test_a_connection_that_is_refused_is_an_error() -> None:
    with pytest.raises(OSError, match="refused"):
        ask_all(1, Order(Api.CHAT, 2, 5), clients=1)
