"""What is wrong with a configuration, described so that a person can put it right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    file: Path
    line: int
    """From 1; 0 when the problem has no line."""
    column: int
    """From 1; 0 when the problem has no line."""
    key: str
    """Path of the key, such as ``pools[0].endpoints[1]``; "" for the file as a whole."""
    got: str
    """What was found."""
    expected: str
    """What would be right."""
    hint: str | None = None

    @property
    def place(self) -> str:
        """``file:line:column``, which editors and terminals make links of."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else str(self.file)

    def __str__(self) -> str:
        lines = [f"{self.place}: {self.key}" if self.key else self.place]
        lines += [f"  got       {self.got}", f"  expected  {self.expected}"]
        if self.hint:
            lines.append(f"  hint      {self.hint}")
        return "\n".join(lines)


class ConfigError(Exception):
    """A configuration that is not accepted."""

    def __init__(
        self, problems: Sequence[Problem], *, files: frozenset[Path] = frozenset()
    ) -> None:
        """``files``: those that were read, or could not be; a change there may put it right."""
        self.problems = tuple(problems)
        self.files = files
        super().__init__(render_problems(self.problems))


def render_problems(problems: Sequence[Problem]) -> str:
    """The problems as plain text, in the order of the file, with a count at the end."""
    ordered = sorted(problems, key=lambda p: (str(p.file), p.line, p.column))
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return "\n\n".join([*map(str, ordered), count])
