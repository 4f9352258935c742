"""From a pool's settings to how its replicas are read."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from gateway.run.certificates import write_self_signed
from gateway.run.derive import picker_settings, scraped_pool
from picker.settings import Objective
from picker.signals.fetch import Fetcher, FetchError
from policies.flow.rules import Bounds
from tests.gateway.config.texts import PRIVATE, loaded

POOL = "pools: [{{name: a, type: static, endpoints: ['127.0.0.1:1'], tls: {}}}]"


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "both.pem"
    write_self_signed(path)
    return path


@pytest_asyncio.fixture
async def page(pem: Path) -> AsyncIterator[URL]:
    """Of a server that lets in only who shows a certificate that it trusts."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="in")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pem))
    context.load_cert_chain(pem)
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield URL(f"https://127.0.0.1:{runner.addresses[0][1]}/metrics")
    await runner.cleanup()


async def test_replicas_are_shown_the_certificate(page: URL, pem: Path, tmp_path: Path) -> None:
    trusted = f"ca: {{file: {pem}}}, server_name: localhost"
    shown = f"certificate: {{file: {pem}}}, key: {{file: {pem}}}"
    fetcher = Fetcher(keep_alive_s=1.0)
    fetcher.open()
    try:
        (pool,) = loaded(tmp_path, POOL.format(f"{{{trusted}, {shown}}}")).pools
        assert await fetcher.get(page, scraped_pool(pool).upstream) == b"in"
        (without,) = loaded(tmp_path, POOL.format(f"{{{trusted}}}")).pools
        with pytest.raises(FetchError):
            await fetcher.get(page, scraped_pool(without).upstream)
    finally:
        await fetcher.close()


def test_headers_of_a_pool_are_for_reading_and_for_requests(tmp_path: Path) -> None:
    text = """
        pools:
          - {name: a, type: static, endpoints: ['h:1'], upstream: {api_key: {env: KEY}, host: x}}
          - {name: b, type: simulated}
        """
    config = loaded(tmp_path, text, {"KEY": PRIVATE})
    sent = (("authorization", f"Bearer {PRIVATE}"), ("host", "x"))
    assert [scraped_pool(pool).upstream.headers for pool in config.pools] == [sent, ()]
    settings = picker_settings(config)
    assert [pool.set_headers for pool in settings.pools] == [sent, ()]
    assert PRIVATE not in repr(settings)
    assert scraped_pool(config.pools[0]) == scraped_pool(config.pools[0]), "read nothing anew"


def test_a_shadow_and_what_responses_say(tmp_path: Path) -> None:
    text = """
        scheduling: {decision_headers: true, profiles: {mine: {policy: {name: least-requests}}}}
        pools:
          - {name: a, type: simulated, profile: auto, shadow: mine}
          - {name: b, type: simulated}
        """
    settings = picker_settings(loaded(tmp_path, text))
    assert settings.shows_decisions
    beside, without = (pool.shadow for pool in settings.pools)
    assert beside is not None
    assert (beside.name, without) == ("least-requests", None)


STATIC = "pools: [{name: a, type: static, endpoints: ['127.0.0.1:1']}]\n"


def test_pools_have_a_queue_unless_they_opt_out(tmp_path: Path) -> None:
    text = STATIC + "flow: {max_requests: 7, objectives: [{name: o, priority: 3, ttft_s: 0.5}]}"
    settings = picker_settings(loaded(tmp_path, text))
    assert [pool.queue for pool in settings.pools] == [True]
    assert settings.flow.rules.max_requests == 7
    assert settings.flow.objectives == (Objective("o", 3, 0.5),)
    assert not settings.flow.trust_headers
    out = loaded(tmp_path, STATIC.replace("type: static", "type: static, queue: false"))
    assert [pool.queue for pool in picker_settings(out).pools] == [False]


def test_classes_of_the_queue_have_what_is_given_and_no_longer_time_than_envoy(
    tmp_path: Path,
) -> None:
    high, low, normal = "max_requests: 9, ttl_s: 50", "ttl_s: 100", "max_tokens: 8"
    classes = f"[{{priority: 3, {high}}}, {{priority: -1, {low}}}, {{priority: 0, {normal}}}]"
    flow = picker_settings(loaded(tmp_path, f"{STATIC}flow: {{classes: {classes}}}")).flow
    assert flow.rules.classes == {3: Bounds(9), -1: Bounds(), 0: Bounds(max_tokens=8)}
    assert (flow.class_ttl_s, flow.ttl_s) == ({3: 50, -1: 59}, 45)


@pytest.mark.parametrize(
    ("more", "longest_s", "sheddable_s"),
    [
        ("", 45, 15),
        ("flow: {ttl_s: 10}", 10, 10),
        ("flow: {ttl_s: 100}", 59, 15),
        ("flow: {ttl_s: 100}\nlisten: {upload_idle_timeout_s: 300}", 100, 15),
        ("listen: {upload_idle_timeout_s: 5}", 10, 10),
        ("flow: {ttl_s: 100}\nenvoy: {enabled: false}\npicker: {ext_proc: {port: 9002}}", 100, 15),
    ],
)
def test_nobody_waits_for_longer_than_our_envoy_does(
    tmp_path: Path, more: str, longest_s: float, sheddable_s: float
) -> None:
    flow = picker_settings(loaded(tmp_path, STATIC + more)).flow
    assert (flow.ttl_s, flow.sheddable_ttl_s) == (longest_s, sheddable_s)
