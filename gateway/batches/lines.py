"""The lines of an input file: what is wrong with them, and where each stands. Pure but for reading
the file that is given."""

from __future__ import annotations

from array import array
from typing import BinaryIO, Final

import msgspec
import orjson
import xxhash
from msgspec import Struct

from gateway.batches.records import LineError

ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/moderations",
    "/v1/rerank",
    "/v1/score",
)
"""What lines may ask for."""
MOST_ERRORS: Final = 100
"""Shown of one file."""
_LONGEST_ID: Final = 512
_KNOWN: Final = frozenset({"custom_id", "method", "url", "body"})


class Limits(Struct, frozen=True):
    """Of an input file."""

    lines: int
    line_bytes: int


class Index(Struct):
    """Where the lines of a sound input file are; of a file that is not, its errors."""

    starts: array[int]
    sizes: array[int]
    ids: array[int]
    """Digests of the lines' custom ids."""
    model: str | None = None
    errors: list[LineError] = []

    @property
    def total(self) -> int:
        """Lines."""
        return len(self.starts)


class Line(Struct, frozen=True):
    """What is to be asked."""

    number: int
    """In `Index`, from 0."""
    custom_id: str
    body: bytes


class _Request(Struct, frozen=True):
    custom_id: str
    body: msgspec.Raw


_REQUESTS: Final = msgspec.json.Decoder(_Request)


def digest(custom_id: str) -> int:
    """What stands for a custom id in memory: 50,000 texts would be large. Who finds two that are
    alike harms his own batch alone, which is refused."""
    return xxhash.xxh3_64_intdigest(custom_id.encode("utf-8", "surrogatepass"))


def read_line(content: bytes, number: int) -> Line:
    """A line of a sound file. Raises ValueError where it is not, after all."""
    try:
        found = _REQUESTS.decode(content)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    return Line(number, found.custom_id, bytes(found.body))


def index(file: BinaryIO, endpoint: str, limits: Limits) -> Index:
    """Read an input file from its beginning. It is never in memory as a whole."""
    found = Index(array("Q"), array("Q"), array("Q"))
    seen: set[int] = set()
    start = number = 0
    while content := file.readline(limits.line_bytes + 2):
        number += 1
        at, start = start, start + len(content)
        whole = content.endswith(b"\n")
        content = content.rstrip(b"\r\n")
        if len(content) > limits.line_bytes:
            start += 0 if whole else _skip_line(file, limits.line_bytes)
            message = f"This line is longer than {limits.line_bytes} bytes."
            _note(found, LineError("line_too_long", message, number))
            continue
        if not content.strip():
            continue
        if found.total >= limits.lines:
            message = f"A batch has at most {limits.lines} requests."
            found.errors.append(LineError("too_many_tasks", message, number))
            return found
        checked = _check(content, number, endpoint, found, seen)
        if isinstance(checked, LineError):
            _note(found, checked)
        found.starts.append(at)
        found.sizes.append(len(content))
    if not found.total and not found.errors:
        found.errors.append(LineError("empty_file", "The input file has no requests."))
    return found


def _note(found: Index, error: LineError) -> None:
    if len(found.errors) < MOST_ERRORS:
        found.errors.append(error)


def _skip_line(file: BinaryIO, at_once: int) -> int:
    """The rest of a line that is too long; its bytes."""
    size = 0
    while content := file.readline(at_once):
        size += len(content)
        if content.endswith(b"\n"):
            break
    return size


def _check(
    content: bytes, number: int, endpoint: str, found: Index, seen: set[int]
) -> LineError | None:
    """What is wrong with a line; None: nothing, and it is noted."""

    def wrong(code: str, message: str, param: str | None = None) -> LineError:
        return LineError(code, message, number, param)

    if number == 1:
        content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        line = orjson.loads(content)
    except orjson.JSONDecodeError:
        return wrong("invalid_json_line", "This line is not parseable as valid JSON.")
    if not isinstance(line, dict):
        return wrong("invalid_json_line", "This line is not a JSON object.")
    for key in ("custom_id", "method", "url", "body"):
        if key not in line:
            message = f"Missing required parameter: '{key}'."
            return wrong("missing_required_parameter", message, key)
    for key in line:
        if key not in _KNOWN:
            return wrong("unknown_parameter", f"Unknown parameter: '{key[:64]}'.", key[:64])
    custom_id, body = line["custom_id"], line["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_ID:
        message = f"'custom_id' must be a text of 1 to {_LONGEST_ID} characters."
        return wrong("invalid_value", message, "custom_id")
    if line["method"] != "POST":
        return wrong("invalid_method", "'method' must be 'POST'.", "method")
    if line["url"] != endpoint:
        message = f"'url' must be the endpoint of the batch, {endpoint!r}."
        return wrong("url_mismatch", message, "url")
    if not isinstance(body, dict):
        return wrong("invalid_value", "'body' must be a JSON object.", "body")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        return wrong("invalid_value", "'model' must be a text.", "body.model")
    if found.ids and model != found.model:
        message = f"All requests of a batch must have one model; the first has {found.model!r}."
        return wrong("model_mismatch", message[:300], "body.model")
    id_ = digest(custom_id)
    if id_ in seen:
        message = f"The custom_id {custom_id[:64]!r} is a duplicate of another request's."
        return wrong("duplicate_custom_id", message, "custom_id")
    if not found.ids:
        found.model = model
    seen.add(id_)
    found.ids.append(id_)
    return None
