"""Workers of a host share the reading of replicas: real replicas, scrapers that hear each other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from picker.signals.scraper import Scraper
from picker.signals.settings import PATIENCE, ScrapedPool, ScrapeSettings
from picker.signals.sharing import reader_of
from picker.signals.sink import ScrapeSink
from picker.state.endpoints import Signals
from picker.state.lack import Lack
from picker.state.models import ServedModel
from tests.picker.signals.replica import Heard, Replica, scraping, vllm_page

Start = Callable[..., Awaitable[Replica]]

SETTINGS = ScrapeSettings(
    interval_s=0.05, idle_interval_s=0.1, timeout_s=0.3, models_interval_s=0.5
)


class Ether:
    """Carries news between the workers of one loop. ``deaf`` ones get none."""

    def __init__(self) -> None:
        self.workers: dict[str, Shared] = {}
        self.deaf: set[str] = set()

    def join(self, name: str) -> Shared:
        self.workers[name] = Shared(self, name)
        self.meet(*self.workers)
        return self.workers[name]

    def meet(self, *names: str) -> None:
        """These live from now on."""
        for worker in self.workers.values():
            worker.members = tuple(names)

    def others(self, name: str) -> list[ScrapeSink]:
        return [
            other.sink
            for other in self.workers.values()
            if other.name != name and other.name not in self.deaf and other.sink is not None
        ]


class Shared:
    def __init__(self, ether: Ether, name: str) -> None:
        self.name = name
        self.members: tuple[str, ...] = (name,)
        self.sink: ScrapeSink | None = None
        self._ether = ether

    def listen(self, sink: ScrapeSink) -> None:
        self.sink = sink

    def apply_signals(self, pool: str, address: str, signals: Signals, started_s: float) -> None:
        for other in self._ether.others(self.name):
            other.apply_signals(pool, address, signals, started_s)

    def apply_models(
        self, pool: str, address: str, models: Sequence[ServedModel], started_s: float
    ) -> None:
        for other in self._ether.others(self.name):
            other.apply_models(pool, address, models, started_s)

    def apply_lack(
        self, pool: str, address: str, lack: Lack, reason: str, started_s: float
    ) -> None:
        for other in self._ether.others(self.name):
            other.apply_lack(pool, address, lack, reason, started_s)

    def mark_failed(self, pool: str, address: str, reason: str, started_s: float) -> None:
        for other in self._ether.others(self.name):
            other.mark_failed(pool, address, reason, started_s)


class Team:
    """Workers that hear each other, by name; each with what its sink has heard."""

    def __init__(self, stack: AsyncExitStack, ether: Ether) -> None:
        self.ether = ether
        self.heard: dict[str, Heard] = {}
        self.scrapers: dict[str, Scraper] = {}
        self._stack = stack

    async def start(self, name: str, settings: ScrapeSettings = SETTINGS) -> Scraper:
        self.heard[name] = Heard()
        self.scrapers[name] = await self._stack.enter_async_context(
            scraping(self.heard[name], settings, self.ether.join(name))
        )
        return self.scrapers[name]

    def sync(self, *replicas: Replica) -> None:
        for scraper in self.scrapers.values():
            scraper.sync(ScrapedPool("pool"), [one.address for one in replicas])

    def reader(self, replica: Replica) -> str:
        members = next(iter(self.ether.workers.values())).members
        return reader_of("pool", replica.address, members)

    def not_reader(self, replica: Replica) -> str:
        return next(name for name in self.scrapers if name != self.reader(replica))

    async def all_heard(self, what: str, replica: Replica, times: int) -> None:
        for heard in self.heard.values():
            await heard.until(lambda h=heard: h.heard(what, replica.address) >= times)  # type: ignore[misc]


@pytest_asyncio.fixture
async def team() -> AsyncIterator[Team]:
    async with AsyncExitStack() as stack:
        made = Team(stack, Ether())
        for name in ("a", "b", "c"):
            await made.start(name)
        yield made


# -- who reads what

names = st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True)


@given(names, st.text(), st.text(), st.randoms())
def test_the_reader_is_a_member_whatever_their_order(
    members: list[str], pool: str, address: str, rng: object
) -> None:
    reader = reader_of(pool, address, members)
    assert reader in members
    assert reader_of(pool, address, sorted(members)) == reader


@given(names, st.data())
def test_a_member_that_goes_leaves_the_others_what_they_have(
    members: list[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(members))
    left = [member for member in members if member != gone]
    for number in range(50):
        reader = reader_of("pool", f"10.0.0.{number}:8000", members)
        if left and reader != gone:
            assert reader_of("pool", f"10.0.0.{number}:8000", left) == reader


def test_readers_have_about_as_much_to_do() -> None:
    members = [f"peer-{index}.sock" for index in range(4)]
    counts = Counter(
        reader_of("pool", f"10.0.{n // 250}.{n % 250}:80", members) for n in range(1000)
    )
    assert min(counts.values()) > 200
    assert max(counts.values()) < 300


# -- reading together


async def test_all_hear_what_is_missing_of_a_replica(team: Team, replica: Start) -> None:
    one = await replica(status=404, models_status=404)
    team.sync(one)
    await team.all_heard("no signals", one, 3)
    await team.all_heard("no models", one, 1)
    assert not any(heard.failed for heard in team.heard.values())


async def test_each_replica_is_read_by_one_worker_and_all_hear_of_it(
    team: Team, replica: Start
) -> None:
    replicas = [await replica() for _ in range(6)]
    team.sync(*replicas)
    for one in replicas:
        await team.all_heard("signals", one, 1)
    before = {one.address: len(one.requests) for one in replicas}
    heard_before = {one.address: team.heard["a"].heard("signals", one.address) for one in replicas}
    for one in replicas:
        await team.all_heard("signals", one, 15)
    for one in replicas:
        reads = one.requests[before[one.address] :].count("/metrics")
        heard = team.heard["a"].heard("signals", one.address) - heard_before[one.address]
        assert reads <= heard + 3  # three workers that read it each would make three times as many
    for name, heard_by in team.heard.items():
        assert not heard_by.failed, name
    shares = Counter(team.reader(one) for one in replicas)
    for name, scraper in team.scrapers.items():
        assert scraper.stats.scrapes >= shares[name]


async def test_news_say_when_the_read_began(team: Team, replica: Start) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 10)
    reader, other = team.heard[team.reader(one)], team.heard[team.not_reader(one)]
    assert len(set(other.started_s) & set(reader.started_s)) >= 5
    assert other.started_s == sorted(other.started_s)
    assert other.started_s[-1] <= time.monotonic()


async def test_a_replica_without_news_is_read_by_those_who_miss_them(
    team: Team, replica: Start
) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 3)
    reader = team.reader(one)
    await team.scrapers[reader].close()  # it still counts as a member, as a hung one does
    rest = [heard for name, heard in team.heard.items() if name != reader]
    counts = [len(heard.signals) for heard in rest]
    for heard, count in zip(rest, counts, strict=True):
        await heard.until(lambda h=heard, n=count: len(h.signals) >= n + 10)  # type: ignore[misc]
    for heard in rest:
        ages_s = [b - a for a, b in zip(heard.started_s, heard.started_s[1:], strict=False)]
        assert max(ages_s[3:]) < 10 * PATIENCE * SETTINGS.idle_interval_s


async def test_a_worker_that_gets_no_news_reads_all_itself(team: Team, replica: Start) -> None:
    replicas = [await replica() for _ in range(6)]
    deaf = "a"
    team.ether.deaf.add(deaf)
    team.sync(*replicas)
    for one in replicas:
        await team.all_heard("signals", one, 8)
    assert team.scrapers[deaf].stats.scrapes >= 8 * len(replicas)


async def test_a_reader_that_does_not_know_the_replica_is_not_waited_for(
    team: Team, replica: Start
) -> None:
    one = await replica()
    reader = team.reader(one)
    for name, scraper in team.scrapers.items():
        if name != reader:
            scraper.sync(ScrapedPool("pool"), [one.address])
    for name, heard in team.heard.items():
        if name != reader:
            await heard.until(lambda h=heard: len(h.signals) >= 5)  # type: ignore[misc]
    assert not team.heard[reader].order  # what it does not know, it is not told of
    team.scrapers[reader].sync(ScrapedPool("pool"), [one.address])
    await team.all_heard("signals", one, 5)


async def test_a_late_worker_finds_its_share(team: Team, replica: Start) -> None:
    replicas = [await replica() for _ in range(8)]
    team.sync(*replicas)
    for one in replicas:
        await team.all_heard("signals", one, 2)
    # Ports are the system's choice, and with them who reads what: a name that gets a share.
    late, ours = next(
        (name, share)
        for name in (f"d{number}" for number in range(1000))
        if 0 < (share := len(shares(name, team, replicas))) < len(replicas)
    )
    await team.start(late)
    team.sync(*replicas)
    for one in replicas:
        await team.all_heard("models", one, 1)
        await team.all_heard("signals", one, 8)
    assert sum(team.reader(one) == late for one in replicas) == ours
    assert team.scrapers[late].stats.scrapes > ours


def shares(name: str, team: Team, replicas: Sequence[Replica]) -> list[Replica]:
    """What a worker that joins would read."""
    members = (*team.scrapers, name)
    return [one for one in replicas if reader_of("pool", one.address, members) == name]


async def test_poked_workers_read_for_themselves(team: Team, replica: Start) -> None:
    one = await replica()
    slow = ScrapeSettings(interval_s=3600, idle_interval_s=3600)
    for scraper in team.scrapers.values():
        scraper.configure(slow)
    team.sync(one)
    await team.all_heard("signals", one, 1)
    other = team.not_reader(one)
    scrapes = team.scrapers[other].stats.scrapes
    one.metrics = vllm_page(waiting=7)
    team.scrapers[other].poke("pool", one.address)
    for heard in team.heard.values():
        await heard.until(
            lambda h=heard: h.signals[-1][1].waiting_requests == 7  # type: ignore[misc]
        )
    assert team.scrapers[other].stats.scrapes == scrapes + 1


async def test_a_touched_worker_gets_news_at_the_busy_rhythm(team: Team, replica: Start) -> None:
    one = await replica()
    settings = ScrapeSettings(interval_s=0.02, idle_interval_s=3600, busy_for_s=3600)
    for scraper in team.scrapers.values():
        scraper.configure(settings)
    team.sync(one)
    await team.all_heard("signals", one, 1)
    team.scrapers[team.not_reader(one)].touch("pool", one.address)
    await team.all_heard("signals", one, 5)


# -- failures


async def test_all_hear_of_a_replica_that_is_gone(team: Team, replica: Start) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 2)
    await one.stop()
    await team.all_heard("failed", one, 1)
    assert {heard.failed[0][1].partition(":")[0] for heard in team.heard.values()} == {
        "cannot connect"
    }


async def test_a_worker_with_troubles_of_its_own_convinces_nobody(
    team: Team, replica: Start
) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 2)
    liar, other = team.ether.workers["a"], "b"
    before = len(team.heard[other].signals)
    liar.mark_failed("pool", one.address, "no answer within 1 s", time.monotonic())
    await team.heard[other].until(lambda: len(team.heard[other].signals) >= before + 5)
    assert not team.heard[other].failed


async def test_models_come_before_the_signals_of_a_replica_that_is_back(
    team: Team, replica: Start
) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 2)
    await one.stop()
    await team.all_heard("failed", one, 1)
    marks = {name: len(heard.order) for name, heard in team.heard.items()}
    one.models = [{"id": "other"}]
    await one.start()
    for name, heard in team.heard.items():
        await heard.until(lambda h=heard, n=marks[name]: ("signals", one.address) in h.order[n:])  # type: ignore[misc]
        since = [what for what, _ in heard.order[marks[name] :]]
        assert "models" in since[: since.index("signals")]
        assert heard.models[-1][1][0].id == "other"


async def test_signals_of_an_unlisted_replica_make_a_worker_read_it(
    team: Team, replica: Start
) -> None:
    """The list of models was lost on the way."""
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 1)
    name = team.not_reader(one)
    await one.stop()
    await team.all_heard("failed", one, 1)
    team.ether.deaf.add(name)
    heard = team.heard[name]
    mark = len(heard.order)
    team.scrapers[name].configure(ScrapeSettings(interval_s=3600, idle_interval_s=3600))
    await one.start()
    reader = team.heard[team.reader(one)]
    before = len(reader.signals)
    await reader.until(lambda: len(reader.signals) > before)
    team.ether.deaf.clear()
    await heard.until(lambda: ("signals", one.address) in heard.order[mark:])
    assert heard.order[mark] == ("models", one.address)


# -- model lists


async def test_a_new_adapter_is_known_to_all(team: Team, replica: Start) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 2)
    one.models.append({"id": "sql", "parent": "m"})
    one.metrics = vllm_page(adapters="sql")
    for heard in team.heard.values():
        await heard.until(lambda h=heard: len(h.models[-1][1]) == 2)  # type: ignore[misc]


async def test_model_lists_are_read_by_the_reader_alone(team: Team, replica: Start) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("models", one, 6)
    assert one.requests.count("/v1/models") <= len(team.heard["a"].models) + 3


# -- news themselves


async def test_old_news_and_news_of_strangers_are_ignored(team: Team, replica: Start) -> None:
    one = await replica()
    team.sync(one)
    await team.all_heard("signals", one, 2)
    teller, listener = team.ether.workers["a"], team.heard["b"]
    signals = listener.signals[-1][1]
    marks = len(listener.order)
    teller.apply_signals("pool", "10.9.9.9:1", signals, time.monotonic())
    teller.apply_signals("other", one.address, signals, time.monotonic())
    teller.apply_signals("pool", one.address, signals, listener.started_s[-1])
    teller.apply_models("pool", "10.9.9.9:1", [], time.monotonic())
    teller.mark_failed("pool", "10.9.9.9:1", "gone", time.monotonic())
    assert len(listener.order) == marks


async def test_news_that_lay_in_a_queue_are_not_taken_for_fresh(replica: Start) -> None:
    """Of a worker that was stopped for an hour, and reads its mail."""
    one, ether, heard, slept_s = await replica(), Ether(), Heard(), 0.0
    settings = ScrapeSettings(interval_s=3600, idle_interval_s=1, timeout_s=1)
    mail = ether.join("a")
    scraper = Scraper(settings, sharing=ether.join("b"), clock=lambda: time.monotonic() + slept_s)
    scraper.start(heard)
    try:
        scraper.sync(ScrapedPool("pool"), [one.address])
        await heard.until(lambda: bool(heard.signals))
        signals, sent_s = heard.signals[0][1], time.monotonic()
        slept_s = 3600.0
        mail.apply_signals("pool", one.address, signals, sent_s)
        assert len(heard.signals) == 1
        slept_s = 0.0
        mail.apply_signals("pool", one.address, signals, sent_s)
        assert len(heard.signals) == 2
    finally:
        await scraper.close()
