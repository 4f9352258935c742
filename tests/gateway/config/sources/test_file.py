"""Following real files: edits, replacements, swapped links, secrets."""

from __future__ import annotations

import asyncio
import os
from collections import UserDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from gateway.config.config import Config
from gateway.config.reading.accept import accept
from gateway.config.reading.problems import ConfigError
from gateway.config.sources.file import ConfigFile

Next = Callable[[], Awaitable[Config | ConfigError]]
Follow = Callable[[Path], Next]


@pytest.fixture
async def follow() -> AsyncIterator[Follow]:
    tasks: list[asyncio.Task[None]] = []

    def followed(path: Path) -> Next:
        seen: asyncio.Queue[Config | ConfigError] = asyncio.Queue()
        current = accept(path)

        async def run() -> None:
            async with aclosing(ConfigFile(path, current).changes()) as changes:
                async for change in changes:
                    seen.put_nowait(change)

        tasks.append(asyncio.create_task(run()))

        async def following() -> Config | ConfigError:
            return await asyncio.wait_for(seen.get(), 5)

        return following

    yield followed
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "penstock.yaml"
    path.write_text("listen: {port: 1001}\n")
    return path


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


def port(result: Config | ConfigError) -> int:
    assert isinstance(result, Config), result
    return result.listen.port


async def silence(following: Next) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await following()


async def test_edited_in_place(follow: Follow, path: Path) -> None:
    following = follow(path)
    for number in (1002, 1003):
        write(path, f"listen: {{port: {number}}}\n")
        assert port(await following()) == number


async def test_replaced_as_editors_do(follow: Follow, path: Path) -> None:
    following = follow(path)
    await asyncio.sleep(0.3)
    for number in (1002, 1003):
        new = path.with_suffix(".new")
        write(new, f"listen: {{port: {number}}}\n")
        new.replace(path)
        assert port(await following()) == number


async def test_swapped_like_a_config_map(follow: Follow, tmp_path: Path) -> None:
    def publish(name: str, number: int) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "penstock.yaml").write_text(f"listen: {{port: {number}}}\n")
        link = tmp_path / "..data_tmp"
        link.symlink_to(name)
        link.replace(tmp_path / "..data")

    publish("..v1", 1001)
    path = tmp_path / "penstock.yaml"
    path.symlink_to(Path("..data") / "penstock.yaml")
    following = follow(path)
    await asyncio.sleep(0.3)
    publish("..v2", 1002)
    assert port(await following()) == 1002
    publish("..v3", 1003)
    assert port(await following()) == 1003


async def test_a_change_before_the_first_look_is_seen(follow: Follow, path: Path) -> None:
    following = follow(path)
    write(path, "listen: {port: 1002}\n")  # nothing has run since `current` was loaded
    assert port(await following()) == 1002


async def test_a_wrong_one_is_told_and_the_way_back_too(follow: Follow, path: Path) -> None:
    following = follow(path)
    write(path, "listen: {port: x}\n")
    error = await following()
    assert isinstance(error, ConfigError)
    assert error.problems[0].key == "listen.port"
    write(path, "listen: {port: x}\n")  # no news
    write(path, "listen: {port: 1001}\n")
    assert port(await following()) == 1001


async def test_an_unknown_policy_is_refused_too(follow: Follow, path: Path) -> None:
    following = follow(path)
    write(path, "scheduling: {profiles: {p: {scorers: [{name: nope}]}}}\n")
    assert isinstance(await following(), ConfigError)


class _Counted(UserDict[str, str]):
    """An environment that knows how often a configuration has asked it for a secret."""

    reads = 0

    def __getitem__(self, name: str) -> str:
        self.reads += 1
        return super().__getitem__(name)


async def test_files_beside_it_are_not_its_business(path: Path) -> None:
    environment = _Counted({"KEY": "s3cret"})
    with_secret = (
        "pools: [{name: a, type: static, endpoints: ['127.0.0.1:1'],"
        " upstream: {api_key: {env: KEY}}}]\n"
    )
    write(path, with_secret)
    current = accept(path, environment=environment)
    each = environment.reads
    async with aclosing(ConfigFile(path, current, environment=environment).changes()) as changes:
        following = asyncio.ensure_future(anext(changes))
        for line in range(3):
            await asyncio.sleep(0.3)
            write(path.parent / "requests.jsonl", f"line {line}\n" * 1000)
        await asyncio.sleep(0.3)
        write(path, f"{with_secret}listen: {{port: 1002}}\n")
        assert port(await asyncio.wait_for(following, 5)) == 1002
    assert environment.reads <= 3 * each  # at the start, at the first look, and after the edit


async def test_nothing_new_is_told_for_what_changes_no_value(follow: Follow, path: Path) -> None:
    following = follow(path)
    await asyncio.sleep(0.3)
    write(path, "# a comment\nlisten:\n  port: 1001\n")
    os.utime(path)
    (path.parent / "other").touch()
    await silence(following)


async def test_a_file_that_is_gone_and_back(follow: Follow, path: Path) -> None:
    following = follow(path)
    await asyncio.sleep(0.3)
    remove(path)
    assert isinstance(await following(), ConfigError)
    write(path, "listen: {port: 1002}\n")
    assert port(await following()) == 1002


async def test_a_secret_in_another_folder(follow: Follow, path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "cert").write_text("C")
    (keys / "key").write_text("one")
    following = follow(path)
    write(path, "listen: {tls: {certificate: {file: keys/cert}, key: {file: keys/key}}}\n")
    config = await following()
    assert isinstance(config, Config)
    (keys / "key").write_text("two")
    config = await following()
    assert isinstance(config, Config)
    assert config.listen.tls is not None
    assert config.listen.tls.key.reveal() == "two"


async def test_a_secret_that_is_missing_at_first(
    follow: Follow, path: Path, tmp_path: Path
) -> None:
    following = follow(path)
    write(path, "listen: {tls: {certificate: {file: k/cert}, key: {file: k/cert}}}\n")
    assert isinstance(await following(), ConfigError)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "cert").write_text("C")
    assert isinstance(await following(), Config)
