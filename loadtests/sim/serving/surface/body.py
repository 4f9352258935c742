"""Reads a JSON request body, and writes errors in vLLM's form."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Never

import orjson

_DEEPEST = 200
"""Depth of nested objects and lists: orjson reads deeper ones than it writes."""


class ApiError(Exception):
    """Becomes an error response."""

    def __init__(
        self,
        message: str,
        *,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        kind: str = "BadRequestError",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param

    def openai(self) -> bytes:
        """The body as vLLM's OpenAI endpoints send it."""
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": self.param,
                    "code": int(self.status),
                }
            }
        )

    def plain(self) -> bytes:
        """The body when no endpoint is reached."""
        return orjson.dumps({"detail": self.message})

    def anthropic(self) -> bytes:
        """The body as /v1/messages sends it."""
        return orjson.dumps(
            {"type": "error", "error": {"type": self.kind, "message": self.message}}
        )


def not_found(message: str, param: str | None = None) -> ApiError:
    """A 404."""
    return ApiError(message, status=HTTPStatus.NOT_FOUND, kind="NotFoundError", param=param)


class Body:
    """A JSON object whose fields are read with their types checked; null counts as absent."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    @classmethod
    def parse(cls, data: bytes) -> "Body":
        """Raises ApiError when it is no JSON object."""
        try:
            values = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ApiError(
                f"JSON decode error: {error}", kind="Bad Request", param="body.0"
            ) from error
        if not isinstance(values, dict):
            raise ApiError("Input should be a valid dictionary")
        if data.count(b"{") + data.count(b"[") > _DEEPEST:
            try:
                orjson.dumps(values)
            except orjson.JSONEncodeError as error:
                raise ApiError("Input is nested too deeply", param="body") from error
        return cls(values)

    def get(self, name: str) -> object:
        """The raw value, None when absent."""
        return self._values.get(name)

    def need(self, name: str) -> object:
        """The raw value; ApiError when absent."""
        value = self._values.get(name)
        if value is None:
            raise ApiError(f"{name}: Field required", param=name)
        return value

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self._wrong(name, "a valid string", value)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._wrong(name, "a valid boolean", value)
        return value

    def integer(
        self, name: str, default: int | None = None, *, least: int, most: int | None = None
    ) -> int | None:
        """An integer of at least `least` and at most `most`."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(name, "a valid integer", value)
        if value < least:
            raise ApiError(f"{name} must be at least {least}, got {value}.", param=name)
        if most is not None and value > most:
            raise ApiError(f"{name} must be at most {most}, got {value}.", param=name)
        return value

    def number(self, name: str, default: float, *, least: float) -> float:
        """A number of at least `least`."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(name, "a valid number", value)
        if value < least:
            raise ApiError(f"{name} must be at least {least}, got {value}.", param=name)
        return float(value)

    def strings(self, name: str) -> tuple[str, ...]:
        """A string or a list of strings."""
        value = self._values.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(name, "a string or a list of strings", value)
        return tuple(value)

    def part(self, name: str) -> "Body":
        """An object; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return Body({})
        if not isinstance(value, dict):
            self._wrong(name, "a valid dictionary", value)
        return Body(value)

    def objects(self, name: str) -> list[Mapping[str, object]]:
        """A list of objects with at least one entry; ApiError when absent."""
        value = self.need(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._wrong(name, "a list of objects", value)
        if not value:
            raise ApiError(f"{name}: List should have at least 1 item", param=name)
        return value

    @staticmethod
    def _wrong(name: str, wanted: str, value: object) -> Never:
        raise ApiError(f"{name}: Input should be {wanted}, got {value!r:.80}", param=name)
