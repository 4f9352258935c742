"""Checks that the tokenizers a configuration names can be loaded."""

from __future__ import annotations

from gateway.config.config import Config
from gateway.config.reading.problems import Problem
from gateway.config.reading.source import Source
from gateway.run.tokenizers import FileTokenizer, TokenizerError


def check_tokenizers(config: Config, source: Source) -> list[Problem]:
    """Load every tokenizer once, and tell what is wrong with it."""
    problems = []
    for index, chosen in enumerate(config.limits.tokenizers):
        try:
            FileTokenizer(chosen.file)
        except TokenizerError as error:
            at = ("limits", "tokenizers", index, "file")
            place = source.place(at)
            problems.append(
                Problem(
                    source.file,
                    place.line,
                    place.column,
                    source.key_path(at),
                    place.value,
                    "a readable tokenizer.json",
                    str(error),
                )
            )
    return problems
