"""The request log, and Penstock's own log."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Tag

from gateway.config.schema.section import ConfigPath, Section, by_shape


class RequestLogFile(Section):
    """A file for the request log."""

    file: ConfigPath
    """File to append to, one JSON object a line; relative to the configuration file."""


class Telemetry(Section):
    """Logs."""

    request_log: Annotated[
        Annotated[Literal["stdout", "none"], Tag("<word>")]
        | Annotated[RequestLogFile, Tag("<file>")],
        by_shape(RequestLogFile, "<file>", "<word>"),
    ] = "stdout"
    """One JSON line for each request: stdout, none, or `{file: PATH}`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages of Penstock's own log."""
