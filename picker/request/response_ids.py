"""Ids of stored responses, as clients get them.

A response is stored by the replica that made it, under an id of its own. The client gets that id
with its characters shifted by a secret of its tenant's, and after it a seal that says which replica
it was. So every picker that has the key finds the replica, without a table and after a restart, and
nobody but the tenant can use the id, even who has seen it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

ALPHABET: Final = string.ascii_letters + string.digits + "-_"
"""Of ids; the Lua filter has it too."""
PREFIX: Final = "resp_"
MAX_SHIFTED: Final = 128
"""Characters of an id; further ones stay as they are."""
_NONCE: Final = 8
_TAG: Final = 8
_CHECK: Final = 8
_SEAL: Final = _NONCE + _TAG + _CHECK
_INDEX: Final = {character: index for index, character in enumerate(ALPHABET)}
_TAGS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Issue:
    """How the id of one new response is changed on its way to the client."""

    pad: str
    """By how much each of its characters is shifted, as characters."""
    seals: dict[str, str]
    """What is put behind it, by the address of the replica that served."""


@dataclass(frozen=True, slots=True)
class Held:
    """A stored response, as a client's id names it."""

    id: str
    """As the replica knows it."""
    tag: str
    """Of the replica's address: see `ResponseIds.tag`."""


class ResponseIds:
    """Makes and reads ids. ``key``: the same for all pickers that are to read them."""

    def __init__(self, key: bytes) -> None:
        self.use(key)

    def use(self, key: bytes) -> None:
        """Another key from now on."""
        self._key = key
        self.tag = lru_cache(maxsize=_TAGS)(self._tag)
        """What stands for an address in an id."""

    def issue(self, tenant: str, addresses: tuple[str, ...]) -> Issue:
        """For a request of the tenant that one of these replicas will serve."""
        nonce = _characters(secrets.token_bytes(_NONCE))
        seals = {}
        for address in addresses:
            tag = self.tag(address)
            seals[address] = nonce + tag + self._check(nonce, tag, tenant)
        return Issue(self._pad(nonce, tenant), seals)

    def read(self, given: str, tenant: str) -> Held | None:
        """The response that an id of the tenant's names; None: it is not one that was issued to
        it."""
        body, seal = given[:-_SEAL], given[-_SEAL:]
        if not body.startswith(PREFIX) or len(body) == len(PREFIX):
            return None
        nonce, tag, check = seal[:_NONCE], seal[_NONCE : _NONCE + _TAG], seal[_NONCE + _TAG :]
        expected = self._check(nonce, tag, tenant)
        if not hmac.compare_digest(check.encode(), expected.encode()):
            return None
        pad = self._pad(nonce, tenant)
        return Held(PREFIX + _shifted(body.removeprefix(PREFIX), pad, -1), tag)

    def _tag(self, address: str) -> str:
        return _characters(self._hash("replica", address)[:_TAG])

    def _check(self, nonce: str, tag: str, tenant: str) -> str:
        return _characters(self._hash("check", nonce, tag, tenant)[:_CHECK])

    def _pad(self, nonce: str, tenant: str) -> str:
        return _characters(self._hash("pad", nonce, tenant))

    def _hash(self, *parts: str) -> bytes:
        # Each part with its length, so that no two lists of parts read alike.
        text = "".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass")
        return hashlib.shake_256(self._key + text).digest(MAX_SHIFTED)


def given_id(issue: Issue, address: str, id: str) -> str:  # noqa: A002 - the response's id
    """The id that the client gets; the Lua filter does the same."""
    seal = issue.seals.get(address)
    if seal is None or not id.startswith(PREFIX):
        return id
    return PREFIX + _shifted(id.removeprefix(PREFIX), issue.pad, 1) + seal


def _characters(data: bytes) -> str:
    return "".join(ALPHABET[byte & 63] for byte in data)


def _shifted(text: str, pad: str, sign: int) -> str:
    shifted = [
        ALPHABET[(_INDEX[one] + sign * _INDEX[by]) % 64] if one in _INDEX else one
        for one, by in zip(text, pad, strict=False)
    ]
    return "".join(shifted) + text[len(pad) :]
