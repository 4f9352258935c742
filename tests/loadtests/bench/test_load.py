"""The load generator against the canned replicas, each a process of its own as in the benchmark."""

import subprocess
import sys
from collections.abc import Iterator

import orjson
import pytest

from loadtests.bench.load import Job
from loadtests.bench.long_prompts import LongMix
from loadtests.bench.prompts import PromptShape, Requests, api_key
from loadtests.bench.result import Result
from loadtests.bench.turns import TurnsJob

SHAPE = PromptShape(500)


class Line:
    """A process that answers a line with a line."""

    def __init__(self, *module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def read(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, line: bytes) -> bytes:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


@pytest.fixture(scope="module")
def upstream() -> Iterator[Line]:
    line = Line("loadtests.bench.upstream", "--replicas", "2")
    yield line
    assert line.end() == 0


@pytest.fixture(scope="module")
def ports(upstream: Line) -> list[int]:
    found: list[int] = orjson.loads(upstream.read())
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def port(ports: list[int]) -> int:
    return ports[0]


@pytest.fixture(scope="module")
def load() -> Iterator[Line]:
    line = Line("loadtests.bench.load")
    yield line
    assert line.end() == 0


def run(load: Line, job: Job) -> Result:
    return Result(**orjson.loads(load.ask(orjson.dumps(job))))


def test_a_closed_loop_sends_as_many_requests_as_asked_for(
    load: Line, port: int, upstream: Line
) -> None:
    before = orjson.loads(upstream.ask(b"counts"))["requests"]
    result = run(load, Job(port=port, prompt=SHAPE, seed=1, connections=4, requests=50))
    assert (result.answered, len(result.latencies_s), result.failures) == (50, 50, {})
    assert all(0 < latency_s < 5 for latency_s in result.latencies_s)
    after = orjson.loads(upstream.ask(b"counts"))["requests"]
    assert [new - old for new, old in zip(after, before, strict=True)] == [50, 0]


def test_an_open_loop_keeps_its_rate(load: Line, port: int) -> None:
    result = run(load, Job(port=port, prompt=SHAPE, seed=2, connections=8, rate=200, seconds=0.5))
    assert 99 <= result.answered <= 101
    assert result.failures == {}


def test_with_too_few_connections_an_open_loop_counts_the_wait(load: Line, port: int) -> None:
    # A stream takes at least 20 ticks of 2 ms and one is due every 20 ms: the queue grows.
    job = Job(
        port=port,
        prompt=SHAPE,
        seed=3,
        connections=1,
        rate=50,
        seconds=0.5,
        max_tokens=21,
        stream=True,
    )
    result = run(load, job)
    assert result.latencies_s[-1] > 4 * result.latencies_s[0]
    assert result.answered >= 24  # also what was still waiting when the time was over


def test_a_stream_has_an_event_a_token_and_a_first_byte(load: Line, port: int) -> None:
    job = Job(
        port=port,
        prompt=SHAPE,
        seed=4,
        connections=2,
        requests=2,
        max_tokens=20,
        stream=True,
    )
    result = run(load, job)
    assert result.answered == 2
    assert result.events == 2 * (20 + 1)  # [DONE] is one too
    for first_s, whole_s in zip(result.first_bytes_s, result.latencies_s, strict=True):
        assert 0 < first_s < whole_s


def test_servers_are_asked_in_turn_and_each_has_a_result(
    load: Line, ports: list[int], upstream: Line
) -> None:
    before = orjson.loads(upstream.ask(b"counts"))["requests"]
    job = TurnsJob(ports, SHAPE, seed=5, requests=20, warm_up=3, max_tokens=2, stream=True)
    results = [Result(**one) for one in orjson.loads(load.ask(orjson.dumps(job)))]
    for result in results:
        assert (result.answered, result.failures) == (20, {})
        assert len(result.first_bytes_s) == len(result.latencies_s) == 20
        assert result.seconds == pytest.approx(sum(result.latencies_s))
    after = orjson.loads(upstream.ask(b"counts"))["requests"]
    assert [new - old for new, old in zip(after, before, strict=True)] == [23, 23]


def test_long_prompts_of_many_users_are_answered_whole_and_as_streams(
    load: Line, port: int
) -> None:
    mix = LongMix(sizes_bytes=(20_000, 30_000), users=2, groups=1)
    job = Job(port=port, prompt=mix, seed=6, connections=2, requests=8, max_tokens=3)
    result = run(load, job)
    assert (result.answered, result.failures) == (8, {})
    assert len(result.first_bytes_s) == 4
    assert result.events == 4 * (3 + 1)


def test_a_port_where_nobody_listens_is_said(port: int) -> None:
    line = Line("loadtests.bench.load")
    job = Job(port=1, prompt=SHAPE, seed=1, connections=1, requests=1)
    assert line.ask(orjson.dumps(job)) == b""
    assert line.end() != 0


def test_requests_share_a_beginning_and_differ_at_their_ends() -> None:
    shape = PromptShape(20_000, shared=0.75, conversations=2)
    requests = Requests(shape, max_tokens=1, stream=False, seed=1)
    first, other, second = (_prompt(requests.next()) for _ in range(3))
    assert 19_900 <= len(first) <= 20_000
    assert first[:14_900] == second[:14_900]
    assert first != second
    assert first[:1_000] != other[:1_000]


def test_a_request_says_what_it_wants() -> None:
    head, _, body = Requests(SHAPE, max_tokens=7, stream=True, seed=1).next().partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    document = orjson.loads(body)
    assert document["max_tokens"] == 7
    assert document["stream"] is True


def test_keys_are_shown_in_turn() -> None:
    requests = Requests(SHAPE, max_tokens=1, stream=False, seed=1, keys=2, first_key=7)
    for number in (7, 8, 7):
        head, _, body = requests.next().partition(b"\r\n\r\n")
        assert f"\r\nauthorization: Bearer {api_key(number)}\r\n".encode() in head
        assert f"content-length: {len(body)}".encode() in head
    without = Requests(SHAPE, max_tokens=1, stream=False, seed=1).next()
    assert b"authorization" not in without


def _prompt(request: bytes) -> str:
    document = orjson.loads(request.partition(b"\r\n\r\n")[2])
    return "".join(message["content"] for message in document["messages"])
