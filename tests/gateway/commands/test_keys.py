"""``penstock keys``."""

from __future__ import annotations

from tests.gateway.commands.terminal import Terminal, cells


async def test_a_key_is_shown_once(penstock: Terminal) -> None:
    made = await penstock(
        *("keys", "create", "fixed", "--name", "laptop", "--expires", "2040-01-01"),
        *("--limit", "requests=3/day"),
    )
    first = made.out.splitlines()[0]
    key_id = first.split()[1]
    assert first == f"Key {key_id} of tenant fixed, good until 2040-01-01 00:00 UTC:"
    assert f"\n  psk_{key_id}_" in made.out
    assert "not shown again" in made.out
    listed = await penstock("keys", "list", "--tenant", "fixed")
    assert "psk_" not in listed.out
    row = next(cells(line) for line in listed.out.splitlines() if line.startswith(key_id))
    assert (row[1:4], row[5]) == (["fixed", "laptop", "active"], "2040-01-01 00:00 UTC")

    rotated = await penstock("keys", "rotate", key_id, "--overlap", "30min")
    new_id = rotated.out.split()[1]
    assert new_id != key_id
    assert f"The old key {key_id} stays good for 30min." in rotated.out
    revoked = await penstock("keys", "revoke", key_id)
    assert revoked.out == f"Key {key_id} of tenant fixed is revoked.\n"
    states = {
        one["id"]: one["state"] for one in (await penstock("keys", "list", "--json")).json["keys"]
    }
    assert states == {"ci": "active", key_id: "revoked", new_id: "active"}


async def test_a_key_is_changed(penstock: Terminal) -> None:
    made = await penstock("keys", "create", "fixed", "--limit", "requests=3/day", "--quiet")
    key_id = made.out.split("_")[1]
    changed = await penstock(
        *("keys", "set", key_id, "--name", "laptop", "--model", "llama-*", "--model", "qwen"),
        *("--expires", "2040-01-01", "--limit", "cost=2/day", "--no-limit", "requests-per-day"),
    )
    assert [cells(line) for line in changed.out.splitlines()] == [
        ["key", key_id],
        ["tenant", "fixed"],
        ["name", "laptop"],
        ["state", "active"],
        ["expires", "2040-01-01 00:00 UTC"],
        ["models", "llama-* qwen"],
        [],
        ["own limit", "allowed", "separately by", "models", "pools", "mode"],
        ["cost-per-day", "2.00 per day (calendar)", "all", "all", "enforced"],
    ]
    changed = await penstock("keys", "set", key_id, "--expires", "never", "--json")
    assert (changed.json["expires"], changed.json["name"]) == (None, "laptop")
    assert "it has no limit 'x' of its own" in await penstock.refused(
        *("keys", "set", key_id, "--no-limit", "x")
    )


async def test_a_script_gets_the_key_alone(penstock: Terminal) -> None:
    made = await penstock("keys", "create", "fixed", "--quiet")
    (key,) = made.out.split()
    assert key.startswith("psk_")
    rotated = await penstock("keys", "rotate", key.split("_")[1], "--quiet")
    assert rotated.out.startswith("psk_")
    assert len(rotated.out.split()) == 1


async def test_what_cannot_be_done_is_one_line(penstock: Terminal) -> None:
    refused = penstock.refused
    assert "a time is written like 90d" in await refused(
        *("keys", "create", "fixed", "--expires", "soon")
    )
    for words in (("keys", "create", "fixed"), ("keys", "set", "ci")):
        assert "repeat --model" in await refused(*words, "--model", "llama qwen")
    assert "stands in the configuration" in await refused("keys", "set", "ci", "--name", "x")
    assert "nothing to change" in await refused("keys", "set", "ci")
    assert "there is no key 'a/b'" in await refused("keys", "revoke", "a/b")
