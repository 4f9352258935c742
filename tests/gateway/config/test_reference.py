"""The reference page is what the schema says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.config.config import Config
from gateway.config.reference import PAGE, render
from gateway.config.schema.section import Section
from gateway.config.schema.walk import hints, item_of, sections_of


def every_section(annotation: object = Config) -> Iterator[type[Section]]:
    inner = item_of(annotation)
    for section in sections_of(annotation if inner is None else inner):
        yield section
        for hint in hints(section).values():
            yield from every_section(hint)


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run: python -m gateway.config.reference"


@pytest.mark.parametrize("section", sorted(set(every_section()), key=str))
def test_every_key_and_section_is_described(section: type[Section]) -> None:
    assert section.__doc__
    assert [k for k, field in section.model_fields.items() if not field.description] == []


def test_every_key_is_on_the_page() -> None:
    page = render()
    for section in every_section():
        for key in section.model_fields:
            assert f"| `{key}` |" in page, f"{section.__name__}.{key}"
    assert "any value |" not in page.replace("mapping of text to any value |", "")
