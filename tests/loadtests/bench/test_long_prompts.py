"""Long prompts: their sizes, whose they are, and what they share."""

import orjson

from loadtests.bench.long_prompts import LongMix, LongRequests
from loadtests.bench.prompts import api_key

MIX = LongMix(sizes_bytes=(20_000, 40_000), users=3, groups=2)
KINDS = 2 * 2 * 3


def test_sizes_users_and_streams_take_turns() -> None:
    requests = LongRequests(MIX, max_tokens=16, seed=1)
    seen = set()
    for _ in range(KINDS):
        head, _, body = requests.next().partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}\r\n".encode() in head + b"\r\n"
        document = orjson.loads(body)
        user = int(document["user"].removeprefix("user-"))
        assert f"authorization: Bearer {api_key(user)}\r\n".encode() in head
        assert document["max_tokens"] == 16
        (size,) = (size for size in MIX.sizes_bytes if 1.0 < len(body) / size < 1.15)
        seen.add((user, size, document["stream"]))
    assert len(seen) == KINDS


def test_a_conversation_goes_on_and_a_group_shares_its_system_prompt() -> None:
    requests = LongRequests(MIX, max_tokens=16, seed=1)
    bodies = [requests.next().partition(b"\r\n\r\n")[2] for _ in range(KINDS + 1)]
    first, again = (orjson.loads(bodies[n])["messages"] for n in (0, KINDS))
    assert first[:-1] == again[:-1]
    assert first[-1] != again[-1]
    other, same_group = (orjson.loads(bodies[n])["messages"] for n in (1, 2))
    assert first[0] == same_group[0] != other[0]
    assert first[1] != same_group[1]
