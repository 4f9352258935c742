from hypothesis import given
from hypothesis import strategies as st

from loadtests.sim.serving import tokens

texts = st.text(st.characters(codec="utf-8"), max_size=60)


@given(texts)
def test_text_survives_the_way_to_ids_and_back(text: str) -> None:
    ids = tokens.to_ids(tokens.encode(text))
    assert tokens.decode(tokens.from_ids(ids)) == text
    assert len(ids) == -(-len(text.encode()) // 4)


@given(st.lists(st.tuples(st.sampled_from(["user", "system"]), texts), min_size=1, max_size=4))
def test_a_longer_conversation_has_the_shorter_one_as_its_prefix(
    turns: list[tuple[str, str]],
) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    first = tokens.render_chat(messages)
    answered = [*messages, {"role": "assistant", "content": "Well known"}]
    second = tokens.render_chat([*answered, {"role": "user", "content": "go on"}])
    assert second.startswith(first + tokens.encode("Well known") + tokens.TURN_END)


def test_parts_mean_what_the_same_string_means() -> None:
    plain = tokens.render_chat([{"role": "user", "content": "hello"}])
    parts = tokens.render_chat(
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    )
    assert plain == parts


def test_images_count_tokens_and_differ() -> None:
    def prompt(url: str) -> bytes:
        part = {"type": "image_url", "image_url": {"url": url}}
        return tokens.render_chat([{"role": "user", "content": [part]}])

    assert tokens.count(prompt("a")) > tokens.IMAGE_TOKENS
    assert prompt("a") != prompt("b")


def test_null_content_is_empty() -> None:
    assert tokens.render_chat([{"role": "user", "content": None}]) == tokens.render_chat(
        [{"role": "user", "content": ""}]
    )
