"""What a picker worker has learned, in a file: a worker that is started again goes on with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import orjson

log = logging.getLogger(__name__)


class LearnedFile:
    """A JSON object. The file is replaced as a whole, so that a crash leaves the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = b"{}"

    def load(self) -> dict[str, object]:
        """What was saved; {} when there is nothing, or nothing that can be read."""
        try:
            loaded = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            log.warning("what was learned cannot be read, and is learned anew: %s", error)
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def save(self, learned: Mapping[str, object]) -> None:
        """Write it, if it is not what was saved last."""
        try:
            data = orjson.dumps(dict(learned), option=orjson.OPT_SERIALIZE_NUMPY)
            if data != self._saved:
                new = self._path.with_suffix(".new")
                new.write_bytes(data)
                new.replace(self._path)
                self._saved = data
        except (OSError, orjson.JSONEncodeError) as error:
            log.warning("what was learned is not saved: %s", error)
