"""The forms a prompt takes in completions, embeddings and scoring requests."""

from loadtests.sim.serving import tokens
from loadtests.sim.serving.surface.body import ApiError
from loadtests.sim.serving.tokens import Tokens


def read_prompts(value: object, name: str) -> list[Tokens]:
    """Prompts of a string, a list of strings, a list of token ids or a list of such lists."""
    if isinstance(value, str):
        prompts = [tokens.encode(value)]
    elif isinstance(value, list) and value and _is_id(value[0]):
        prompts = [_from_ids(value, name)]
    elif isinstance(value, list) and value:
        prompts = [
            tokens.encode(item) if isinstance(item, str) else _from_ids(item, name)
            for item in value
        ]
    else:
        raise ApiError(
            f"{name}: Input should be a string, a list of strings, token ids or lists of them",
            param=name,
        )
    if not all(prompts):
        raise ApiError(f"{name}: The prompt cannot be empty", param=name)
    return prompts


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _from_ids(value: object, name: str) -> Tokens:
    if not isinstance(value, list) or not all(map(_is_id, value)):
        raise ApiError(f"{name}: Input should be a list of token ids", param=name)
    try:
        return tokens.from_ids(value)
    except OverflowError as error:
        raise ApiError(
            f"{name}: Token id is out of vocabulary, ids are 0 to {tokens.MAX_TOKEN_ID}", param=name
        ) from error
