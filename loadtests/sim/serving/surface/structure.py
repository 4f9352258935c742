"""What a request says about the form of its answer: response_format, and vLLM's own fields."""

from collections.abc import Callable
from typing import Final

from loadtests.sim.serving.patterns import UnwritableError
from loadtests.sim.serving.structures import Structure, choice_text, json_text, regex_text
from loadtests.sim.serving.surface.body import ApiError, Body

_OLD: Final = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
"""Names before ``structured_outputs``."""


def read_structure(body: Body) -> Structure | None:
    """None: any answer will do. Raises ApiError."""
    given = dict(_structured(body))
    if not given:
        return _response_format(body.part("response_format"), "json_schema")
    if len(given) > 1:
        raise ApiError(
            "You can only use one kind of structured outputs constraint but multiple are"
            f" specified: {', '.join(given)}",
            param="structured_outputs",
        )
    ((kind, value),) = given.items()
    return _of(kind, value)


def text_format(body: Body) -> Structure | None:
    """The same of the Responses API, which has it under ``text.format``. Raises ApiError."""
    return _response_format(body.part("text").part("format"), "")


def message_format(body: Body) -> Structure | None:
    """The same of Anthropic's Messages API, which has it under ``output_config.format``. Raises
    ApiError."""
    return _response_format(body.part("output_config").part("format"), "") or _response_format(
        body.part("output_format"), ""
    )


def checked(make: Callable[[], Structure], param: str) -> Structure:
    """A structure, or an ApiError for what cannot be written."""
    try:
        return make()
    except UnwritableError as error:
        raise ApiError(str(error), param=param) from error


def _structured(body: Body) -> list[tuple[str, object]]:
    options = body.part("structured_outputs")
    kinds = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
    found = [(kind, options.get(kind)) for kind in kinds]
    found += [(kind, body.get(old)) for old, kind in _OLD.items()]
    return [(kind, value) for kind, value in found if value is not None and value is not False]


def _of(kind: str, value: object) -> Structure:
    match kind, value:
        case "json", _:
            return checked(lambda: json_text(value), "structured_outputs")
        case "json_object", _:
            return json_text(True)
        case "regex", str():
            return checked(lambda: regex_text(str(value)), "structured_outputs")
        case "choice", [*choices] if choices and all(isinstance(one, str) for one in choices):
            return choice_text([str(one) for one in choices])
        case (("grammar" | "structural_tag"), _):
            raise ApiError(f"the simulator writes no answers by {kind}", param=kind)
    raise ApiError(f"structured_outputs.{kind} is {value!r:.80}", param="structured_outputs")


def _response_format(form: Body, inside: str) -> Structure | None:
    match form.text("type"):
        case "" | "text":
            return None
        case "json_object":
            return json_text(True)
        case "json_schema":
            part = form.part(inside) if inside else form
            schema = part.need("schema")
            return checked(lambda: json_text(schema), "response_format")
        case other:
            raise ApiError(
                f"response_format.type: Input should be 'text', 'json_object' or 'json_schema',"
                f" got {other!r}",
                param="response_format",
            )
