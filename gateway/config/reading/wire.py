"""An accepted configuration as bytes, for another process of ours, and back.

The configuration itself holds only references to secrets; their values are sent beside it. So the
bytes are as secret as the secrets: they go through a unix socket that only this user may open, and
never into a log or a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from gateway.config.config import Config
from gateway.config.reading.secrets import KnownSecrets
from gateway.config.schema.secret import SecretContext, secrets_in

_Values: Final = TypeAdapter(dict[str, str])


def to_json(config: Config) -> bytes:
    """The configuration and the values of its secrets. Never log or store the result.

    Raises LookupError when a secret was never resolved.
    """
    secrets = {secret.reference: secret.reveal() for secret in secrets_in(config)}
    return json.dumps({"config": config.model_dump(mode="json"), "secrets": secrets}).encode()


def from_json(content: bytes) -> Config:
    """The configuration from which `to_json` made the bytes, secrets included. Reads no file and no
    environment variable.

    Raises ValueError when the content is something else.
    """
    message = json.loads(content)
    if not isinstance(message, dict) or message.keys() != {"config", "secrets"}:
        raise ValueError("not a configuration of ours: expected the keys config and secrets")
    reader = KnownSecrets(_Values.validate_python(message["secrets"]))
    context = SecretContext(folder=Path("/"), reader=reader)
    return Config.model_validate_json(json.dumps(message["config"]), context=context)
