"""Names that clients make up are bounded."""

from __future__ import annotations

from policies.limits.known_names import OTHERS, KnownNames

GROUP = ("acme", "session")


def test_names_that_are_one_too_many_count_as_one() -> None:
    names = KnownNames(max_names=3, idle_s=60)
    assert [names.known(GROUP, name, 0.0) for name in "abcde"] == ["a", "b", "c", OTHERS, OTHERS]
    assert names.known(GROUP, "a", 30.0) == "a"
    assert names.known(("other", "session"), "d", 30.0) == "d"
    assert names.known(GROUP, "d", 59.0) == OTHERS
    assert names.known(GROUP, "d", 61.0) == "d", "b has been idle"
    assert names.known(GROUP, "b", 61.0) == "b", "and c"
    assert names.known(GROUP, "c", 61.0) == OTHERS
    assert names.known(GROUP, "", 61.0) == ""
