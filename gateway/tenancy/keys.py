"""Makes API keys, and the digests that are kept of them."""

from __future__ import annotations

import hashlib
import secrets
import string
from dataclasses import dataclass, field
from typing import Final

_SECRET: Final = string.digits + string.ascii_letters
_SECRET_LENGTH: Final = 43
"""62^43 > 2^256."""
_ID: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_ID_LENGTH: Final = 10
"""31^10 > 2^49: among a million keys, two have the same id once in 1,600 times; then another id is
drawn."""


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key with its text."""

    id: str
    text: str = field(repr=False)


def make_key() -> MadeKey:
    """A key of the form ``psk_ID_SECRET``, with 256 random bits. People and secret scanners
    recognize it by its prefix."""
    key_id = "".join(secrets.choice(_ID) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_SECRET) for _ in range(_SECRET_LENGTH))
    return MadeKey(key_id, f"psk_{key_id}_{secret}")


def digest_of(key: str) -> bytes:
    """SHA-256 of the whole key, 32 bytes. A fast hash is enough for keys that cannot be guessed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
