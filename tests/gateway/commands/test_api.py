"""How commands reach the admin API, and what they say when they do not."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from tests.gateway.commands.terminal import Terminal


async def test_the_token(penstock: Terminal, tmp_path: Path) -> None:
    penstock.place.token = "correct horse"
    line = await penstock.refused("tenants", "list")
    assert line == (
        f"{penstock.url} asks for the admin token: give --token-file FILE or set"
        " PENSTOCK_ADMIN_TOKEN"
    )
    file = tmp_path / "token"
    file.write_text("correct horse\n")
    await penstock("tenants", "list", "--token-file", str(file))
    penstock.environment["PENSTOCK_ADMIN_TOKEN"] = "correct horse"
    await penstock("tenants", "list")
    penstock.environment["PENSTOCK_ADMIN_TOKEN"] = "wrong"
    line = await penstock.refused("tenants", "list")
    assert line == f"{penstock.url} does not accept this admin token"
    assert "cannot read the token" in await penstock.refused(
        *("tenants", "list", "--token-file", str(tmp_path / "none"))
    )


async def test_nobody_answers(penstock: Terminal, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    line = await penstock.refused("usage", "--url", url)
    assert line == (
        f"nobody answers at {url}: start Penstock with `penstock up -c FILE`, or tell with --url"
        " where it runs"
    )
    assert "is no URL" in await penstock.refused("usage", "--url", "127.0.0.1:8090")


async def test_somebody_else_answers(penstock: Terminal) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="<html>\x1b[2J")

    other = web.Application()
    other.router.add_get("/api/tenants", hello)
    runner = web.AppRunner(other)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        for words in (("tenants", "list"), ("usage",)):
            line = await penstock.refused(*words, "--url", url)
            assert "the answer is not that of an admin API of Penstock" in line
    finally:
        await runner.cleanup()
