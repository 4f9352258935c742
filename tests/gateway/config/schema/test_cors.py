"""Which web pages may call the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.config.texts import Refusal, loaded


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    assert loaded(tmp_path, "cors: null").cors is None
    on = loaded(tmp_path, "").cors
    assert on is not None
    assert on.origins == ("*",)


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(
            "cors: {origins: [app.example]}", (1, 18), "cors.origins[0]", "app", "origin", None
        ),
        Refusal(
            "cors: {origins: ['https://a.example/']}",
            (1, 18),
            "cors.origins[0]",
            "https",
            "an origin",
            "without a /",
        ),
        Refusal(
            "cors: {origins: ['https://A.example']}",
            (1, 18),
            "cors.origins[0]",
            "https",
            "an origin",
            "lower case",
        ),
        Refusal(
            "cors: {headers: ['x y']}", (1, 18), "cors.headers[0]", "x y", "name of a header", None
        ),
        Refusal(
            "cors: {origins: ['*', 'https://a.example']}",
            (1, 17),
            "cors.origins",
            "both",
            "either",
            None,
        ),
        Refusal("cors: {origins: []}", (1, 17), "cors.origins", "", "at least one", "cors: null"),
        Refusal(
            "cors: {origins: ['https://a.example'], credentials: true}",
            (1, 7),
            "cors.headers",
            "*",
            "names",
            "browsers refuse",
        ),
    ],
    ids=lambda refusal: refusal.text,
)
def test_a_problem_has_its_position_and_says_what_is_right(
    tmp_path: Path, refusal: Refusal
) -> None:
    refusal.check(tmp_path)
