"""Checks that the tokenizers a configuration names can be loaded."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.schema.fault import Fault
from gateway.config.schema.sections import Sections
from gateway.tokenizers.load import TokenizerError, tokenizer_of


def check_tokenizers(config: Sections) -> Iterator[Fault]:
    """Load every tokenizer once: a fault for each that cannot be loaded."""
    for index, chosen in enumerate(config.limits.tokenizers):
        try:
            tokenizer_of(chosen.file, chosen.encoding)
        except TokenizerError as error:
            yield Fault(
                ("limits", "tokenizers", index, "file" if chosen.file else "encoding"),
                "a tokenizer that can be loaded",
                hint=str(error),
            )
