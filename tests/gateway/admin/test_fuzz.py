"""Whatever is sent to the admin API: no 500, and what it has made can still be read."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from queue import Queue
from urllib.parse import quote, urlsplit

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.gateway.admin.place import place

PATHS = (
    *("/api/tenants", "/api/tenants/fixed", "/api/tenants/{}", "/api/keys", "/api/keys/ci"),
    *("/api/keys/{}", "/api/keys/{}/rotate", "/api/keys/ci/rotate", "/api/keys/{}/revoke"),
    *("/api/limits", "/api/usage", "/api/config", "/api/status", "/api/drain", "/healthz"),
    *("/readyz", "/", "/metrics", "/nothing", "/api/keys/%ff", "/api/tenants/%2e%2e"),
)
PARAMETERS = ("limit", "cursor", "tenant", "key", "user", "model", "pool", "from", "to", "by", "x")
TEXTS = st.sampled_from(
    [
        *(
            "fixed",
            "ci",
            "made",
            "",
            "9" * 400,
            "9" * 5_000,
            "-1",
            "1e9",
            "tenant,day",
            "csv",
            "\0",
        ),
        *("0001-01-01", "0001-01-09", "9999-12-31", "2027-02-30", "\u00b2", "\u00e9\U0001f600"),
        *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2099-01-01T00:00:00Z"),
    ]
)
NUMBERS = st.sampled_from([0, -1, 1, 1e9, 3e11, 1e15, 1e300, 2**63, 2**64 - 1, 0.5])
MEMBERS = (
    *("tenant", "name", "expires", "models", "limits", "overlap_s", "plan", "labels", "disabled"),
    *("count", "limit", "period", "window", "burst", "by", "pool", "endpoint", "draining", "keys"),
)
JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = (
    st.sampled_from([b"", b"[]", b"{", b"\xff", b"[" * 2_000, b'{"tenant":"\\ud800"}', b"1e400"])
    | st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=4).map(orjson.dumps)
    | JSON.map(orjson.dumps)
)
HEADERS = st.dictionaries(
    st.sampled_from(["If-Match", "Accept", "Origin", "Host", "Authorization", "Sec-Fetch-Site"]),
    st.sampled_from(
        [b"", b"\xe9", b"9" * 5_000, b"*", b'"1"', b"[", b"http://[", b"text/csv", b"\xb2"]
    ),
    max_size=2,
)


class Admin:
    """One connection for each request, written as it is."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._where = parts.hostname, parts.port
        self.key = ""

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, bytes] | None = None,
        body: bytes = b"",
    ) -> tuple[int, bytes]:
        each = {
            "Host": b"localhost",
            "Content-Type": b"application/json",
            "Connection": b"close",
            "Content-Length": str(len(body)).encode(),
            **(headers or {}),
        }
        lines = b"".join(b"%s: %s\r\n" % (k.encode(), v) for k, v in each.items())
        request = b"%s %s HTTP/1.1\r\n" % (method.encode(), target.encode())
        with socket.create_connection(self._where, timeout=10) as connection:
            connection.sendall(request + lines + b"\r\n" + body)
            with connection.makefile("rb") as file:
                answer = file.read()
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), content

    def make_key(self, expires: str = "null") -> str:
        body = b'{"tenant":"fixed","expires":%s}' % expires.encode()
        status, made = self.ask("POST", "/api/keys", None, body)
        assert status == 201
        name: str = orjson.loads(made)["id"]
        return name


@pytest.fixture(scope="module")
def admin() -> Iterator[Admin]:
    """An admin API that runs in a thread."""
    urls: Queue[str] = Queue()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with place() as (_, url):
            urls.put(url)
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    made = Admin(urls.get(timeout=30))
    made.key = made.make_key()
    yield made
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@settings(max_examples=200, derandomize=True)
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD"]),
    path=st.sampled_from(PATHS),
    query=st.dictionaries(st.sampled_from(PARAMETERS), TEXTS, max_size=3),
    headers=HEADERS,
    body=BODIES,
)
@example(method="POST", path="/api/keys", query={}, headers={"Origin": b"http://["}, body=b"{}")
@example(method="GET", path="/api/keys", query={"limit": "9" * 5_000}, headers={}, body=b"")
@example(method="GET", path="/api/usage", query={"to": "0001-01-09"}, headers={}, body=b"")
@example(
    method="PATCH", path="/api/keys/{}", query={}, headers={"If-Match": b"9" * 5_000}, body=b"{}"
)
def test_no_request_makes_a_500(
    admin: Admin,
    *,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, bytes],
    body: bytes,
) -> None:
    wanted = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    target = path.format(admin.key) + ("?" + wanted if wanted else "")
    status, _ = admin.ask(method, target, headers, body)
    assert status < 500


def test_lists_can_be_read_after_all_of_it(admin: Admin) -> None:
    for target in ("/api/keys?limit=1000", "/api/tenants?limit=1000", "/api/status"):
        assert admin.ask("GET", target)[0] == 200


def test_times_at_the_ends_of_the_calendar(admin: Admin) -> None:
    for overlap_s, expected in (("1e8", 201), ("1e9", 400), ("3e11", 400), ("1e300", 400)):
        body = b'{"overlap_s":%s}' % overlap_s.encode()
        status, _ = admin.ask("POST", f"/api/keys/{admin.make_key()}/rotate", None, body)
        assert status == expected
        assert admin.ask("GET", "/api/keys?limit=1000")[0] == 200
    late = admin.make_key('"9998-12-31T00:00:00Z"')
    assert admin.ask("POST", f"/api/keys/{late}/rotate", None, b"{}")[0] == 201
    assert admin.ask("GET", "/api/keys?limit=1000")[0] == 200
