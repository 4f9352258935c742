"""The secret that ids of stored responses are made with: see `picker.request.response_ids`."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Final

from gateway.config.config import Config

log = logging.getLogger(__name__)

_FILE: Final = "response-ids.key"
_WITHOUT_TENANTS: Final = b"penstock"
"""Nobody is kept from a response where nobody is known."""


def response_key(config: Config) -> bytes:
    """The configuration's, else one that all workers of this gateway share, kept in its state
    folder."""
    if config.picker.response_key is not None:
        return config.picker.response_key.reveal().encode()
    if not config.has_tenants:
        return _WITHOUT_TENANTS
    file = config.state_file.with_name(_FILE)
    try:
        return _shared(file)
    except OSError as error:
        log.warning(
            "%s: %s: ids of stored responses are good for one picker worker and until it ends",
            *(file, error),
        )
        return secrets.token_bytes(32)


def _shared(file: Path) -> bytes:
    """The first of the workers to come writes it. Raises OSError."""
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = file.with_name(f"{file.name}.{os.getpid()}")
        own.touch(mode=0o600)
        own.write_text(secrets.token_hex(32))
        try:
            os.link(own, file)  # whole, or not there
        except FileExistsError:
            pass
        finally:
            own.unlink()
    return file.read_bytes()
