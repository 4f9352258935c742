"""Takes an uploaded file: from the request to the disk, never as a whole in memory."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import BodyPartReader, web
from msgspec import Struct

from gateway.batches.problems import Refusal, invalid

_CHUNK_BYTES: Final = 256 * 1024
_MOST_FIELD_BYTES: Final = 4_096
_MOST_FIELDS: Final = 32
_LONGEST_NAME: Final = 255


class Form(Struct):
    """What came with the file."""

    fields: dict[str, str]
    filename: str | None = None
    """None: there was no file."""
    size_bytes: int = 0


async def receive(request: web.Request, into: Path, most_bytes: int) -> Form:
    """Read a multipart form and write its file. Raises Refusal and OSError; the file may be there
    in part then."""
    if not request.content_type.startswith("multipart/"):
        invalid("Send the file as multipart/form-data, with the fields `purpose` and `file`.")
    length = request.content_length
    if length is not None and length > most_bytes + (64 << 10):
        raise too_large(most_bytes)
    form = Form({})
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if len(form.fields) >= _MOST_FIELDS:
                invalid(f"The form has more than {_MOST_FIELDS} fields.")
            if not isinstance(part, BodyPartReader):
                invalid("The form has a part that is a form itself.")
            if part.name == "file" and form.filename is None:
                form.filename = (part.filename or "upload.jsonl")[:_LONGEST_NAME]
                form.size_bytes = await _write(part, into, most_bytes)
            else:
                form.fields[part.name or ""] = await _text(part)
    except (ValueError, AssertionError, LookupError, UnicodeError) as error:
        raise Refusal(400, "invalid_form", f"The form cannot be read: {error}") from error
    return form


def too_large(most_bytes: int) -> Refusal:
    """413."""
    return Refusal(413, "file_too_large", f"The file is larger than {most_bytes} bytes.")


async def _write(part: BodyPartReader, into: Path, most_bytes: int) -> int:
    size = 0
    file = await asyncio.to_thread(_open, into)
    try:
        held: list[bytes] = []
        held_bytes = 0
        while chunk := await part.read_chunk(_CHUNK_BYTES):
            size += len(chunk)
            if size > most_bytes:
                raise too_large(most_bytes)
            held.append(bytes(chunk))
            held_bytes += len(chunk)
            if held_bytes >= 4 * _CHUNK_BYTES:
                await asyncio.to_thread(file.writelines, held)
                held, held_bytes = [], 0
        await asyncio.to_thread(_close, file, held)
    finally:
        file.close()
    return size


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _close(file: BinaryIO, rest: list[bytes]) -> None:
    file.writelines(rest)
    file.flush()
    os.fsync(file.fileno())


async def _text(part: BodyPartReader) -> str:
    content = b""
    while chunk := await part.read_chunk(_MOST_FIELD_BYTES):
        content += chunk
        if len(content) > _MOST_FIELD_BYTES:
            invalid(f"A field of the form is longer than {_MOST_FIELD_BYTES} bytes.")
    return content.decode()
