"""How commands use the admin API of a running Penstock."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, cast
from urllib.parse import quote

import orjson
import typer
from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, InvalidURL
from yarl import URL

from gateway.commands.output import fail

_TOKEN_VARIABLE: Final = "PENSTOCK_ADMIN_TOKEN"  # noqa: S105 - a variable's name
_TIMEOUT_S: Final = 90.0
_MOST_ERROR_CHARACTERS: Final = 2_000

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="PENSTOCK_ADMIN_URL", help="The admin API of the running Penstock."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help=f"File with the admin API's token. Or set {_TOKEN_VARIABLE}.",
        show_default=False,
    ),
]
LOCAL: Final = "http://127.0.0.1:8090"


@dataclass(frozen=True, slots=True)
class Api:
    """One running Penstock. When a method gets no good answer, it ends the command with a line
    that says why."""

    url: str
    token: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, url: str, token_file: Path | None) -> Api:
        """With the token from a file, else from the environment."""
        if not url.startswith(("http://", "https://")):
            fail(f"{url!r} is no URL of an admin API, such as {LOCAL}")
        if token_file is None:
            return cls(url.rstrip("/"), os.environ.get(_TOKEN_VARIABLE) or None)
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            fail(f"cannot read the token: {error}")
        return cls(url.rstrip("/"), token)

    def get(self, path: str, query: Mapping[str, str | None] | None = None) -> Document:
        """The JSON object of a path. Parameters that are None or empty are left out."""
        return _object(self._answer("GET", path, query=query))

    def text(self, path: str, query: Mapping[str, str | None]) -> str:
        """The text of a path."""
        return self._answer("GET", path, query=query).decode()

    def post(self, path: str, body: Mapping[str, object]) -> Document:
        """The answer to a document."""
        return _object(self._answer("POST", path, body=body))

    def patch(self, path: str, body: Mapping[str, object], *, version: int) -> Document:
        """The answer to a change of that version of the document."""
        headers = {"If-Match": f'"{version}"'}
        return _object(self._answer("PATCH", path, body=body, headers=headers))

    def delete(self, path: str) -> Document:
        """The answer."""
        return _object(self._answer("DELETE", path))

    def _answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        sent = dict(headers or {})
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        given = {key: value for key, value in (query or {}).items() if value}

        async def ask() -> tuple[int, bytes]:
            url = URL(f"{self.url}{path}", encoded=True).with_query(given)
            timeout = ClientTimeout(total=_TIMEOUT_S, connect=5.0)
            async with (
                ClientSession(timeout=timeout) as session,
                session.request(
                    method,
                    url,
                    headers=sent,
                    data=None if body is None else orjson.dumps(body),
                    allow_redirects=False,  # the token is for nobody else
                ) as answer,
            ):
                return answer.status, await answer.read()

        try:
            status, content = asyncio.run(ask())
        except (InvalidURL, ValueError):
            fail(f"{self.url!r} is no URL of an admin API, such as {LOCAL}")
        except TimeoutError:
            fail(f"{self.url} does not answer in time")
        except ClientConnectorError:
            fail(
                f"nobody answers at {self.url}: start Penstock with `penstock up -c FILE`, or tell"
                " with --url where it runs"
            )
        except (ClientError, OSError) as error:
            fail(f"{self.url} gave no answer: {str(error) or type(error).__name__}")
        if status == 401:
            fail(self._unauthorized())
        if not 200 <= status < 300:
            fail(_reason(status, content))
        return content

    def _unauthorized(self) -> str:
        if self.token is None:
            return (
                f"{self.url} asks for the admin token: give --token-file FILE or set"
                f" {_TOKEN_VARIABLE}"
            )
        return f"{self.url} does not accept this admin token"


Document = dict[str, object]
"""A JSON object."""


def at(*parts: str) -> str:
    """A path of the API, its parts quoted."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def _object(content: bytes) -> Document:
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        fail("the answer is not that of an admin API of Penstock: is the URL right?")
    return cast("Document", found)


def _reason(status: int, content: bytes) -> str:
    try:
        return str(orjson.loads(content)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = content.decode(errors="replace").strip()[:_MOST_ERROR_CHARACTERS]
        return f"the answer is not that of an admin API of Penstock: status {status}: {text}"
