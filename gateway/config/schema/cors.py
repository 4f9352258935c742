"""Which web pages may call the API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from gateway.config.schema.fault import Fault, refuse
from gateway.config.schema.section import Section

EVERY: Final = "*"

_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(\*\.)?(\[[0-9a-f:]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9])?)(:[0-9]{1,5})?"
)
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'+.^_`|~-]+")


def _origin(value: str) -> str:
    if value != EVERY and not _ORIGIN.fullmatch(value):
        hint = None
        if _ORIGIN.fullmatch(value.lower()):
            hint = "browsers send it in lower case"
        elif _ORIGIN.fullmatch(value.rstrip("/")):
            hint = "without a / at the end"
        raise refuse(
            "an origin such as https://app.example, https://*.app.example for every name below, or"
            " * for all",
            hint=hint,
        )
    return value


def _header(value: str) -> str:
    if value != EVERY and not _HEADER.fullmatch(value):
        raise refuse("the name of a header, or * for every one")
    return value.lower()


Origin = Annotated[str, AfterValidator(_origin), "origin"]
HeaderName = Annotated[str, AfterValidator(_header), "header name"]


class Cors(Section):
    """Which web pages may call the API, and read its answers: the CORS headers that Penstock's
    Envoy answers with. A page sends no cookie of ours, only what it knows itself: its user's key.
    So every origin is let in unless you say otherwise, as by vLLM itself. Where no key is asked for
    and browsers reach the gateway, name the origins, or set `cors: null`."""

    origins: tuple[Origin, ...] = (EVERY,)
    """Origins of the pages, such as `https://app.example`; `https://*.app.example` stands for every
    name below, `*` for all."""
    headers: tuple[HeaderName, ...] = (EVERY,)
    """Request headers that pages may set. `*`: every one."""
    expose_headers: tuple[HeaderName, ...] = ()
    """Response headers that pages may read, beside those that are always shown: request ids, rate
    limits, retry-after and the session token."""
    credentials: bool = False
    """Browsers may send cookies and client certificates of the gateway's host. For a proxy in front
    that asks for them; needs `origins` and `headers` by name."""
    max_age_s: Annotated[int, Field(ge=0, le=86_400)] = 600
    """Time for which a browser need not ask again, seconds."""

    def faults(self) -> Iterator[Fault]:
        """What does not go together."""
        if not self.origins:
            yield Fault(("origins",), "at least one origin", hint="cors: null lets no page in")
        if EVERY in self.origins and len(self.origins) > 1:
            yield Fault(("origins",), "either * alone, or names", got="both")
        for key, values in (("origins", self.origins), ("headers", self.headers)):
            if EVERY in values and self.credentials:
                yield Fault(
                    (key,),
                    "names, since credentials are sent",
                    got=EVERY,
                    hint="browsers refuse * beside credentials",
                )
