"""What the picker reads in a path, and what the replica must get to read the same."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.request.target import Target, has_two_readings, read_target

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("target", "path", "respelled"),
    [
        (CHAT, CHAT, None),
        (CHAT + "?a=b&c=/tokenize", CHAT, None),
        (CHAT + "?", CHAT, None),
        ("*", "*", None),
        ("/", "/", None),
        ("/v1/models/a:b@c", "/v1/models/a:b@c", None),
        (CHAT + "/", CHAT, CHAT),
        (CHAT + "//?a=b", CHAT, CHAT + "?a=b"),
        ("//v1//chat/completions", CHAT, CHAT),
        ("/%76%31/chat%2Fcompletions?x=%3F", CHAT, CHAT + "?x=%3F"),
        (CHAT + "#/tokenize", CHAT, CHAT),
        (CHAT + "?a#b", CHAT, CHAT + "?a"),
        (CHAT + "%3Fa=/tokenize", CHAT + "?a=/tokenize", CHAT + "%3Fa=/tokenize"),
        ("/v1/caf%C3%A9", "/v1/café", None),
    ],
)
def test_one_spelling_for_everybody(target: str, path: str, respelled: str | None) -> None:
    if respelled == target:
        respelled = None
    assert read_target(target) == Target(path, respelled)


@given(st.text(alphabet="/v1.%2F3fe;?#\\a é", max_size=24).map(lambda text: "/" + text))
def test_the_replica_reads_what_was_read_here(target: str) -> None:
    found = read_target(target)
    if has_two_readings(found.path):
        return
    seen = (found.respelled or target).partition("?")[0]
    assert unquote(seen) == found.path
    assert read_target(found.respelled or target).path == found.path
