"""Checks that the tokenizers a configuration names can be loaded."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.schema.fault import Fault
from gateway.config.schema.sections import Sections
from gateway.tokenizers import FileTokenizer, TokenizerError


def check_tokenizers(config: Sections) -> Iterator[Fault]:
    """Load every tokenizer once: a fault for each that cannot be loaded."""
    for index, chosen in enumerate(config.limits.tokenizers):
        try:
            FileTokenizer(chosen.file)
        except TokenizerError as error:
            yield Fault(
                ("limits", "tokenizers", index, "file"),
                "a readable tokenizer.json",
                hint=str(error),
            )
