"""The scraper against real HTTP servers that answer, refuse, hang and talk nonsense."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from picker.signals.engines import Engine
from picker.signals.fetch import Upstream
from picker.signals.scraper import Scraper
from picker.signals.settings import ScrapedPool, ScrapeSettings
from picker.state.lack import Lack
from picker.state.models import ServedModel
from tests.picker.signals.replica import scraping, vllm_page

Start = Callable[..., Awaitable[Any]]


async def test_models_are_told_before_the_first_signals(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica()
    scraper.sync(pool, [one.address])
    await heard.until(lambda: heard.signals)
    assert heard.order[:2] == [("models", one.address), ("signals", one.address)]
    assert heard.models[0] == (one.address, [ServedModel("m", None, None)])
    assert heard.signals[0][1].kv_capacity_tokens == 1600


async def test_signals_follow_the_replica(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool, page: Callable[..., str]
) -> None:
    one = await replica()
    scraper.sync(pool, [one.address])
    await heard.until(lambda: heard.signals)
    one.metrics = page(waiting=9)
    await heard.until(lambda: heard.signals[-1][1].waiting_requests == 9)
    assert heard.started_s == sorted(heard.started_s)
    assert not heard.failed


async def test_nobody_listens(scraper: Scraper, heard: Any, pool: ScrapedPool) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        scraper.sync(pool, [address])
        await heard.until(lambda: heard.failed)
    assert heard.failed[0][0] == address
    assert "cannot connect" in heard.failed[0][1]
    assert scraper.stats.failures["refused"] == len(heard.failed)


async def test_a_replica_that_comes_back_is_read_again(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica()
    scraper.sync(pool, [one.address])
    await heard.until(lambda: heard.signals)
    await one.stop()
    await heard.until(lambda: heard.failed)
    one.models = [{"id": "other"}]
    before = len(heard.signals)
    await one.start()
    await heard.until(lambda: len(heard.signals) > before)
    assert heard.models[-1][1][0].id == "other"


async def test_slow_answers_are_no_failure(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica()
    scraper.sync(pool, [one.address])
    await heard.until(lambda: heard.signals)
    one.hangs = True
    await heard.until(lambda: len(heard.lacks) >= 3)
    assert not heard.failed
    assert set(heard.lacks) == {
        (one.address, Lack.ANSWER, "GET /health: no answer within 0.9 s"),
    }


async def test_slow_metrics_do_not_hide_that_the_replica_lives(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica(metrics_hang=True)
    scraper.sync(pool, [one.address])
    await heard.until(lambda: len(heard.lacks) >= 3)
    assert heard.models, "its models are known before it gets requests"
    lack = (one.address, Lack.SIGNALS, "GET /metrics: no answer within 0.3 s")
    assert set(heard.lacks) == {lack}
    one.metrics_hang = False
    await heard.until(lambda: heard.signals)
    assert not heard.failed


async def test_who_is_poked_is_not_kept_waiting_by_slow_metrics(
    heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    """The data plane had trouble there: whether it lives must be known at once."""
    one = await replica(metrics_hang=True)
    settings = ScrapeSettings(idle_interval_s=3600, timeout_s=0.3)
    async with scraping(heard, settings) as scraper:
        scraper.sync(pool, [one.address])
        await heard.until(lambda: heard.lacks)
        asked = one.requests.count("/metrics")
        scraper.poke(pool.name, one.address)
        await heard.until(lambda: len(heard.lacks) == 2)
    assert one.requests.count("/metrics") == asked


UNUSABLE: dict[str, tuple[dict[str, object], str]] = {
    "404": ({"status": 404}, "status 404"),
    "401": ({"status": 401}, "status 401, it asks for a key"),
    "500": ({"status": 500}, "status 500"),
    "empty": ({"metrics": ""}, "the engine is not known"),
    "html": ({"metrics": "<html>\x01 not metrics"}, "the engine is not known"),
    "other": ({"metrics": "python_info 1.0\n"}, "the engine is not known"),
    "nan": ({"metrics": vllm_page().replace(" 0\n", " NaN\n")}, "must be a number"),
    "huge": ({"metrics": "x" * 100_000}, "more than 50000 bytes"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_metrics_that_cannot_be_used_take_no_replica_out(
    case: str, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    settings, reason = UNUSABLE[case]
    one = await replica(health=200, **settings)
    rhythm = ScrapeSettings(interval_s=0.02, idle_interval_s=0.02, max_body_bytes=50_000)
    async with scraping(heard, rhythm) as scraper:
        scraper.sync(pool, [one.address])
        await heard.until(lambda: len(heard.lacks) >= 6)
    assert not heard.failed
    assert {lack for _, lack, _ in heard.lacks} == {Lack.SIGNALS}
    assert reason in heard.lacks[0][2]
    assert one.requests.count("/metrics") <= 3, "not read again and again"


async def test_the_health_page_decides_where_metrics_say_nothing(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica(status=404, health=200)
    scraper.sync(pool, [one.address])
    await heard.until(lambda: heard.lacks)
    one.health = 503
    await heard.until(lambda: heard.failed)
    assert heard.failed[0] == (one.address, "GET /health: status 503")
    before = len(heard.lacks)
    one.health = 401  # not for us, but the answer of one that lives
    await heard.until(lambda: len(heard.lacks) > before)


async def test_a_server_that_has_no_metrics_is_not_asked_for_them(
    scraper: Scraper, heard: Any, replica: Start
) -> None:
    one = await replica()
    scraper.sync(ScrapedPool("pool", Engine.OPENAI), [one.address])
    await heard.until(lambda: len(heard.lacks) >= 3)
    assert set(heard.lacks) == {(one.address, Lack.SIGNALS, "")}
    assert heard.models[0] == (one.address, [ServedModel("m", None, None)])
    assert set(one.requests) == {"/health", "/v1/models"}


async def test_a_model_list_that_cannot_be_read_has_its_reason(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica(models_status=401)
    scraper.sync(pool, [one.address])
    await heard.until(lambda: heard.signals and heard.lacks)
    (address, lack, reason) = heard.lacks[0]
    assert (address, lack) == (one.address, Lack.MODELS)
    assert reason.startswith("GET /v1/models: status 401")


async def test_headers_of_the_pool_are_sent_with_every_read(
    scraper: Scraper, heard: Any, replica: Start
) -> None:
    one = await replica(status=404)
    upstream = Upstream(headers=(("authorization", "Bearer k"), ("host", "models.internal")))
    assert "Bearer" not in repr(upstream)
    scraper.sync(ScrapedPool("pool", upstream=upstream), [one.address])
    await heard.until(lambda: heard.lacks and heard.models)
    assert {"/metrics", "/health", "/v1/models"} <= set(one.requests)
    for headers in one.headers:
        assert (headers["authorization"], headers["host"]) == ("Bearer k", "models.internal")


async def test_bad_replicas_do_not_hold_up_good_ones(
    heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    good = [await replica() for _ in range(3)]
    hanging = [await replica(hangs=True) for _ in range(8)]
    garbage = await replica(metrics="<html>\x01 not metrics")
    settings = ScrapeSettings(
        interval_s=0.02,
        idle_interval_s=0.05,
        timeout_s=2.0,
        max_concurrent=10,
        max_concurrent_suspect=4,
    )
    async with scraping(heard, settings) as scraper:
        scraper.sync(pool, [each.address for each in [*hanging, garbage, *good]])
        await heard.until(lambda: all(heard.heard("signals", g.address) >= 30 for g in good))
        await heard.until(lambda: heard.heard("no signals", garbage.address))
        await heard.until(lambda: heard.heard("no answer", hanging[-1].address))
        seen = [heard.heard("signals", each.address) for each in good]
        await heard.until(
            lambda: all(
                heard.heard("signals", g.address) >= n + 10 for g, n in zip(good, seen, strict=True)
            )
        )


async def test_a_missing_metric_is_named(
    scraper: Scraper, heard: Any, replica: Start, page: Callable[..., str]
) -> None:
    one = await replica(metrics=page().replace("kv_cache_usage_perc", "renamed"))
    scraper.sync(ScrapedPool("pool", Engine.VLLM), [one.address])
    await heard.until(lambda: heard.lacks)
    assert heard.lacks[0][2] == "GET /metrics: vllm:kv_cache_usage_perc: missing"


async def test_a_server_that_speaks_no_http(
    scraper: Scraper, heard: Any, pool: ScrapedPool
) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\xff220 mail ready\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        scraper.sync(pool, [f"{host}:{port}"])
        await heard.until(lambda: heard.failed)
    assert scraper.stats.failures["disconnected"] >= 2


@pytest.mark.parametrize("path", ["/metrics/", "/prometheus/metrics"])
async def test_metrics_on_another_known_path_are_found(
    path: str, scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    text = (
        "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\n"
        "trtllm_kv_cache_utilization 0.5\n"
    )
    one = await replica(metrics=text, metrics_path=path)
    scraper.sync(pool, [one.address])
    await heard.until(lambda: len(heard.signals) >= 3)
    assert heard.signals[0][1].running_requests == 2
    assert one.requests.count("/metrics") == 1  # remembered where they are


async def test_a_new_adapter_makes_the_model_list_be_read(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool, page: Callable[..., str]
) -> None:
    one = await replica()
    scraper.sync(pool, [one.address])
    await heard.until(lambda: heard.signals)
    one.models.append({"id": "sql", "parent": "m"})
    one.metrics = page(adapters="sql")
    await heard.until(lambda: len(heard.models) == 2)
    assert heard.models[1][1][1] == ServedModel("sql", "m", None)


async def test_model_lists_are_read_again_from_time_to_time(
    heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica()
    settings = ScrapeSettings(interval_s=0.01, idle_interval_s=0.01, models_interval_s=0.05)
    async with scraping(heard, settings) as scraper:
        scraper.sync(pool, [one.address])
        await heard.until(lambda: len(heard.models) >= 3)
    assert len(heard.signals) > len(heard.models)


async def test_a_broken_model_list_does_not_stop_the_signals(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    one = await replica(models=[{"name": "no id"}])
    scraper.sync(pool, [one.address])
    await heard.until(lambda: len(heard.signals) >= 3)
    assert not heard.models
    assert not heard.failed


async def test_poke_reads_at_once(heard: Any, replica: Start, pool: ScrapedPool) -> None:
    one = await replica()
    async with scraping(heard, ScrapeSettings(idle_interval_s=3600)) as scraper:
        scraper.sync(pool, [one.address])
        await heard.until(lambda: heard.signals)
        await one.stop()
        scraper.poke(pool.name, one.address)
        await heard.until(lambda: heard.failed)


async def test_touch_brings_the_busy_rhythm(heard: Any, replica: Start, pool: ScrapedPool) -> None:
    one = await replica()
    settings = ScrapeSettings(interval_s=0.01, idle_interval_s=3600, busy_for_s=3600)
    async with scraping(heard, settings) as scraper:
        scraper.sync(pool, [one.address])
        await heard.until(lambda: heard.signals)
        scraper.touch(pool.name, one.address)
        await heard.until(lambda: len(heard.signals) >= 5)


async def test_removed_endpoints_are_left_alone(
    scraper: Scraper, heard: Any, replica: Start, pool: ScrapedPool
) -> None:
    kept, removed = await replica(), await replica()
    scraper.sync(pool, [kept.address, removed.address])
    await heard.until(lambda: heard.heard("signals", removed.address))
    scraper.sync(pool, [kept.address])
    before = heard.heard("signals", removed.address)
    goal = heard.heard("signals", kept.address) + 5
    await heard.until(lambda: heard.heard("signals", kept.address) >= goal)
    assert heard.heard("signals", removed.address) == before


async def test_closing_leaves_no_task_behind(heard: Any, replica: Start, pool: ScrapedPool) -> None:
    answering, hanging = await replica(), await replica(hangs=True)
    before = asyncio.all_tasks()
    async with scraping(heard, ScrapeSettings(interval_s=0.01, idle_interval_s=0.01)) as scraper:
        scraper.sync(pool, [answering.address, hanging.address])
        await heard.until(lambda: len(heard.signals) >= 3)
    left = {task for task in asyncio.all_tasks() - before if "scrape" in repr(task).lower()}
    assert not left
    silent = len(heard.order)
    await asyncio.sleep(0)
    assert len(heard.order) == silent


async def test_a_sink_that_raises_is_reported_and_reading_goes_on(
    heard: Any, replica: Start, pool: ScrapedPool, caplog: pytest.LogCaptureFixture
) -> None:
    one = await replica()
    good = heard.apply_signals

    def broken(*_: object) -> None:
        heard.apply_signals = good
        raise LookupError("no such slot")

    heard.apply_signals = broken
    async with scraping(heard, ScrapeSettings(interval_s=0.01, idle_interval_s=0.01)) as scraper:
        scraper.sync(pool, [one.address])
        await heard.until(lambda: heard.signals)
        assert scraper.stats.failures["internal"] == 1
    assert "no such slot" in caplog.text


async def test_tls_to_a_replica_without_tls_fails_with_a_reason(
    scraper: Scraper, heard: Any, replica: Start
) -> None:
    one = await replica()
    context = ssl.create_default_context()
    scraper.sync(ScrapedPool("pool", upstream=Upstream(context, "replica.test")), [one.address])
    await heard.until(lambda: heard.failed)
    assert "TLS" in heard.failed[0][1]
