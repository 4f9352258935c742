"""The small value types of the configuration: names, addresses, ports, durations, amounts.

The text at the end of a type is its name in the reference page.
"""

from __future__ import annotations

import ipaddress
import os
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo

from gateway.config.schema.fault import refuse
from gateway.config.schema.section import absolute

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_NUMBER: Final = re.compile(r"[+-]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][+-]?[0-9]{1,3})?")
_MOST_DIGITS: Final = 18
DECIMAL_PLACES: Final = 6
"""Micro-units are the smallest amounts of money."""
_PLAIN_PATH: Final = re.compile(r"(/[A-Za-z0-9_.~:@!$&'()+,=-]+)+")
_DOTS: Final = re.compile(r"/\.{1,2}(/|\Z)")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


def _name(value: str) -> str:
    if len(value) > 63 or not _NAME.fullmatch(value):
        raise refuse("a name of at most 63 lower-case letters, digits, '-', '_' and '.'")
    return value


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        hint = "use 127.0.0.1" if value == "localhost" else None
        raise refuse(
            "an IP address such as 127.0.0.1, or 0.0.0.0 for every interface", hint=hint
        ) from error


def is_ip(host: str) -> bool:
    """Whether a host is an IP address, without brackets, and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def split_endpoint(value: str) -> tuple[str, int]:
    """Host (no brackets) and port of ``host:port`` or ``[ipv6]:port``; else ValueError."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"no port from 1 to 65535 in {value!r}")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if not _HOST.fullmatch(host):
        raise ValueError(f"no host in {value!r}")
    return host, int(port)


def join_endpoint(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_port(value: str) -> str:
    try:
        return join_endpoint(*split_endpoint(value))
    except ValueError as error:
        hint = "give it without http://; TLS has its own key, `tls`" if "://" in value else None
        raise refuse("host:port or ip:port, port 1 to 65535", hint=hint) from error


def _model_name(value: str) -> str:
    if not value or value != value.strip() or "\n" in value:
        raise refuse("a model name without white space around it")
    return value


def _engine_profile(value: str, info: ValidationInfo) -> str:
    path = Path(value)
    if path.suffix not in (".yaml", ".yml", ".json") and len(path.parts) == 1:
        if not _NAME.fullmatch(value):
            raise refuse("the name of a built-in profile, or a file ending in .yaml or .json")
        return value
    path = absolute(path, info)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise refuse("the name of a built-in profile, or a readable file", hint=f"looked at {path}")
    return str(path)


def _http_path(value: str) -> str:
    if not value.startswith("/") or any(c.isspace() for c in value):
        raise refuse("an HTTP path that starts with /")
    return value


def _open_path(value: str) -> str:
    path = value.removesuffix("/*")
    plain = _PLAIN_PATH.fullmatch(path) and not _DOTS.search(path)
    if not plain or path.endswith("/"):
        hint = None
        if value in ("/*", "/"):
            hint = "it would open the engines' control paths: name what clients need"
        elif "*" in path:
            hint = "a * stands only at the end, after a slash: everything below"
        raise refuse("a path such as /v1/files, or /v1/files/* for it and all below", hint=hint)
    return value


def _pattern(value: str) -> str:
    if not value or value != value.strip() or "\n" in value:
        raise refuse("a model name, or a pattern with *, ? or [...], without white space around it")
    return value


def _instant(value: object) -> object:
    expected = "a date and time with its zone, such as 2027-01-31T00:00:00Z"
    hint = None
    if isinstance(value, datetime):
        found = value
    else:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError as error:
            raise refuse(expected) from error
    if found.tzinfo is None:
        hint = "Z at the end is UTC; others are written like +02:00"
        raise refuse(expected, hint=hint)
    return found.astimezone(UTC)


def _decimal(value: object) -> object:
    if isinstance(value, bool) or not _NUMBER.fullmatch(str(value)):
        raise refuse("a number")
    found = Decimal(str(value))
    if found.adjusted() > _MOST_DIGITS:
        raise refuse(f"a number of at most {_MOST_DIGITS} digits")
    places = f"{found:f}".partition(".")[2].rstrip("0") if found.adjusted() > -99 else "0" * 99
    if len(places) > DECIMAL_PLACES:
        raise refuse(f"a number with at most {DECIMAL_PLACES} decimal places")
    return Decimal(f"{found:f}".rstrip("0").rstrip(".")) if places else Decimal(int(found))


def _number(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


Name = Annotated[str, AfterValidator(_name), "name"]
ModelName = Annotated[str, AfterValidator(_model_name), "model name"]
IpAddress = Annotated[str, AfterValidator(_ip_address), "IP address"]
HostPort = Annotated[str, AfterValidator(_host_port), "host:port"]
HttpPath = Annotated[str, AfterValidator(_http_path), "HTTP path"]
OpenPath = Annotated[str, AfterValidator(_open_path), "path, or path/*"]
Port = Annotated[int, Field(ge=1, le=65535), "port, 1 to 65535"]
Seconds = Annotated[float, Field(gt=0), "seconds, above 0"]
Count = Annotated[int, Field(ge=1)]
Priority = Annotated[int, Field(ge=-1_000, le=1_000)]
EngineProfile = Annotated[str, AfterValidator(_engine_profile), "profile"]
"""A name without a folder or an ending, or a file; a relative one is made absolute."""
ModelPattern = Annotated[str, AfterValidator(_pattern), "model pattern"]
"""A model's name; ``*``, ``?`` and ``[...]`` stand for other characters."""
Instant = Annotated[datetime, BeforeValidator(_instant), "date and time"]
"""A date and time with a zone; kept in UTC."""
Exact = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    PlainSerializer(_number, when_used="json"),
    "decimal number",
]
"""A decimal number of at most six places, exactly as it is written: 0.15 is 15/100."""
Rate = Annotated[Exact, Field(ge=0, le=1_000_000), "decimal number, 0 or more"]
"""A price or weight."""
