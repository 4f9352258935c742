"""What requests to a pool's replicas carry: the gateway's key for them, their host, headers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator

from gateway.config.schema.fault import Fault, refuse
from gateway.config.schema.secret import Secret, TextOrSecret, revealed
from gateway.config.schema.section import Section

UpstreamHeaders = tuple[tuple[str, str], ...]
"""Names in lower case, and values; the host is one of them."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_SECRET: Final = re.compile(
    r"(authorization|cookie|(api-?|access-?|auth-?)?key|token|secret|password)$", re.IGNORECASE
)
_NOT_OURS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-gateway-destination-endpoint",
        "x-penstock-pool",
    }
)
"""Headers of the connection, or that choose the replica."""
_API_KEY_OPTION: Final = "--api-key"
_VISIBLE: Final = "printable ASCII characters, on one line"


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise refuse("a host name, with a port where it is not the usual one")
    return value


HeaderValue = Annotated[TextOrSecret, "text or [secret](#secrets)"]


class Upstream(Section):
    """What requests to the replicas carry, whoever they are from: clients, and Penstock itself
    where it reads metrics, models and health."""

    api_key: Secret | None = None
    """Key that the replicas ask for (`vllm serve --api-key`), sent as `Authorization: Bearer`. What
    a client sends to identify itself is then kept from the replicas. The picker sets it: requests
    that are let through without one (`picker.failure_mode: open`) go without a key."""
    host: Annotated[str, AfterValidator(_host), "host"] | None = None
    """Host header, for replicas behind a proxy that goes by names. Null: what the client sent.
    Somebody else's gateway must allow that (Envoy: `mutation_rules.allow_all_routing`)."""
    headers: Mapping[str, HeaderValue] = {}
    """Headers to set: text, or a secret (`{env: NAME}`, `{file: PATH}`). One whose name is that of
    a secret takes only the latter."""

    def faults(self) -> Iterator[Fault]:
        """The headers and the key."""
        for name, value in self.headers.items():
            yield from _name_faults(name)
            if isinstance(value, str) and _SECRET.search(name):
                yield Fault(
                    ("headers", name),
                    "{env: NAME} or {file: PATH}, because the header's name is that of a secret",
                    got="a value that is not shown",
                )
            elif not _is_visible(value):
                yield Fault(("headers", name), _VISIBLE, got="a value that is not shown")
        if self.api_key is not None:
            if not _is_visible(self.api_key):
                yield Fault(("api_key",), _VISIBLE, got="a value that is not shown")
            for name in [name for name in self.headers if name.lower() == "authorization"]:
                yield Fault(
                    ("headers", name),
                    "no such header beside `api_key`, which is sent in it",
                    got="a value that is not shown",
                )

    def request_headers(self, *, else_key: str | None = None) -> UpstreamHeaders:
        """The headers with their secrets. ``else_key``: in place of an `api_key` that is not given.
        Raises LookupError as `Secret.reveal` does."""
        found = {name.lower(): revealed(value) for name, value in self.headers.items()}
        key = else_key if self.api_key is None else self.api_key.reveal()
        if key is not None:
            found.setdefault("authorization", f"Bearer {key}")
        if self.host is not None:
            found["host"] = self.host
        return tuple(found.items())


def key_in_command(command: Sequence[str]) -> str | None:
    """The key that a command line makes replicas ask for; None: it names none."""
    for index, argument in enumerate(command):
        option, equals, value = argument.partition("=")
        if option == _API_KEY_OPTION and equals:
            return value
        if argument == _API_KEY_OPTION and index + 1 < len(command):
            return command[index + 1]
    return None


def without_key(command: Sequence[str]) -> list[str]:
    """The command line, to be shown: with a placeholder for the key that it names."""
    key = key_in_command(command)
    shown = {key: "<key>", f"{_API_KEY_OPTION}={key}": f"{_API_KEY_OPTION}=<key>"}
    return [shown.get(argument, argument) for argument in command]


def _name_faults(name: str) -> Iterator[Fault]:
    hint = None
    if not _TOKEN.fullmatch(name):
        expected = "the name of an HTTP header"
    elif name.lower() == "host":
        expected, hint = "another header", "the host has its own key: upstream.host"
    elif name.lower() in _NOT_OURS or name.lower().startswith("x-envoy-"):
        expected = "a header that is not the connection's own and does not choose the replica"
    else:
        return
    yield Fault(("headers", name), expected, got=f"the header {name!r}", hint=hint)


def _is_visible(value: str | Secret) -> bool:
    try:
        text = revealed(value)
    except LookupError:  # a configuration made by hand
        return True
    return bool(text) and text.isascii() and text.isprintable()
