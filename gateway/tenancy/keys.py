"""API keys: how they are made, and the digest that is kept of them."""

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
"""31^10 > 2^49: a million keys meet one in 1,600 times, and then another is drawn."""


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key before it is handed over."""

    id: str
    text: str = field(repr=False)


def make_key() -> MadeKey:
    """``psk_ID_SECRET`` with 256 random bits; its start is for people and secret scanners."""
    key_id = "".join(secrets.choice(_ID) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_SECRET) for _ in range(_SECRET_LENGTH))
    return MadeKey(key_id, f"psk_{key_id}_{secret}")


def digest_of(key: str) -> bytes:
    """SHA-256 of the whole key, 32 bytes. A fast hash is enough for keys that cannot be guessed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
