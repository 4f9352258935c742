"""The ``model`` field of a form (multipart/form-data, RFC 7578): found, replaced, and added.

A form is read strictly: where servers differ in what it means, it is refused, so that a replica
reads no other model than the one that was decided by.
"""

from __future__ import annotations

import re
from typing import Final

_BOUNDARIES: Final = re.compile(r";\s*boundary\s*=", re.IGNORECASE)
_BOUNDARY: Final = re.compile(
    r""";\s*boundary=(?:"(?P<quoted>[^"\\]{1,70})"|(?P<token>[^\s;",]{1,70}))\s*(?:;|\Z)""",
    re.IGNORECASE,
)
_DISPOSITION: Final = re.compile(rb"\s*form-data\s*(?P<parameters>;.*)", re.IGNORECASE)
_NAME: Final = re.compile(
    rb""";\s*name\s*=\s*(?:"(?P<quoted>[^"\\]*)"|(?P<token>[\w!#$%&'*+.^`|~-]+)(?=\s*(?:;|\Z)))""",
    re.IGNORECASE,
)
"""A name without quotes is a token: Python's mail parser, which Starlette uses, takes the angle
brackets off ``<model>``."""
_UNCLEAR: Final = re.compile(rb"name\s*\*", re.IGNORECASE)
_MODEL: Final = b"model"
_MODEL_PART: Final = b'Content-Disposition: form-data; name="model"'
_MAX_PARTS: Final = 1_024
_MAX_HEAD_BYTES: Final = 16_384
_MAX_NAME_BYTES: Final = 4_096
_WINDOW_BYTES: Final = 1 << 20
"""Searched at once: a search keeps Python's lock."""


class InvalidForm(Exception):  # noqa: N818 - named by what the client sent
    """The form cannot be read, or means different things to different servers."""


def find_model(body: bytes, content_type: str) -> slice | None:
    """Where the form has the name of its model, which is UTF-8; None when it names none. Raises
    InvalidForm."""
    found = _BOUNDARY.search(content_type)
    if found is None or len(_BOUNDARIES.findall(content_type)) != 1:
        raise InvalidForm("its content-type has no boundary, or several")
    boundary = (found["quoted"] or found["token"]).encode("latin-1", "replace")
    return _find(body, b"--" + boundary)


def with_form_model(body: bytes, place: slice | None, served: str) -> bytes:
    """The body with another name in that place; None: with a part more, if it has any."""
    if place is not None:
        return b"".join((body[: place.start], served.encode(), body[place.stop :]))
    if b"\r\n\r\n" not in body:
        return body
    boundary = body[: body.index(b"\r\n")]
    return b"\r\n".join((boundary, _MODEL_PART, b"", served.encode(), body))


def _find(body: bytes, dashes: bytes) -> slice | None:
    if not body.startswith(dashes):
        raise InvalidForm("it does not begin with its boundary")
    delimiter = b"\r\n" + dashes
    at = len(dashes)
    model: slice | None = None
    for _ in range(_MAX_PARTS + 1):
        after = body[at : at + 2]
        if after == b"--":
            return model
        if after != b"\r\n":
            raise InvalidForm("a boundary is followed by something else")
        head_end = body.find(b"\r\n\r\n", at, at + _MAX_HEAD_BYTES)
        if head_end < 0:
            raise InvalidForm("a part has no headers, or no end of them")
        end = _search(body, delimiter, head_end + 2)
        if end < 0:
            raise InvalidForm("it has no last boundary")
        start = min(head_end + 4, end)
        if _name(body[at + 2 : head_end]) == _MODEL:
            if model is not None:
                raise InvalidForm("it has several models")
            model = _model(body, start, end)
        at = end + len(delimiter)
    raise InvalidForm(f"it has more than {_MAX_PARTS} parts")


def _search(body: bytes, wanted: bytes, start: int) -> int:
    while start < len(body):
        found = body.find(wanted, start, start + _WINDOW_BYTES + len(wanted))
        if found >= 0:
            return found
        start += _WINDOW_BYTES
    return -1


def _name(head: bytes) -> bytes:
    """The name of a part. One that hides what it is called has none that is clear."""
    dispositions = []
    encoded = False
    for line in head.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        if not colon or line[:1] in (b" ", b"\t"):
            raise InvalidForm("the headers of a part cannot be read")
        name = key.strip().lower()
        if name == b"content-disposition":
            dispositions.append(value)
        encoded = encoded or name == b"content-transfer-encoding"
    if len(dispositions) != 1:
        raise InvalidForm("a part needs one Content-Disposition")
    given = _DISPOSITION.fullmatch(dispositions[0])
    if given is None or _UNCLEAR.search(dispositions[0]):
        raise InvalidForm("the Content-Disposition of a part cannot be read")
    names = list(_NAME.finditer(given["parameters"]))
    if len(names) != 1:
        raise InvalidForm("a part has no name, or several")
    found: bytes = names[0]["quoted"] or names[0]["token"] or b""
    if found == _MODEL and (encoded or b"filename" in given["parameters"].lower()):
        raise InvalidForm("its model is no plain field")
    return found


def _model(body: bytes, start: int, end: int) -> slice:
    if end - start > _MAX_NAME_BYTES:
        raise InvalidForm("the name of its model is too long")
    try:
        body[start:end].decode()
    except UnicodeDecodeError:
        raise InvalidForm("the name of its model is not UTF-8") from None
    return slice(start, end)
