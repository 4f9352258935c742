"""Segments as text, as KV blocks and as the picker's blocks: three views of one prompt."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.workloads.prompts import Prompt, Role, Segment
from loadtests.workloads.words import BYTES_PER_TOKEN, text_of
from picker.prompt.blocks import Blocks, block_ends, hash_blocks
from picker.prompt.forms import Form, read_prompt

SEGMENTS = st.builds(
    Segment, st.sampled_from("abc"), st.sampled_from([0, 1, 15, 16, 17, 63, 64, 65, 300, 1500])
)
PROMPTS = st.lists(SEGMENTS, max_size=6).map(Prompt)
PAIRS = st.tuples(
    st.lists(SEGMENTS, max_size=4), st.lists(SEGMENTS, max_size=3), st.lists(SEGMENTS, max_size=3)
)


def real(prompt: Prompt, *, adapter: str = "") -> Blocks:
    """What the live picker makes of the prompt's text."""
    parsed = read_prompt(Form.COMPLETIONS, {"prompt": prompt.text() or " "})
    return hash_blocks(parsed, model="m", adapter=adapter)


def in_common(left: list[int], right: list[int]) -> int:
    same = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        same += 1
    # Behind the first difference nothing is equal: both are chains.
    assert not set(left[same:]) & set(right[same:])
    return same


def test_text_is_four_bytes_a_token_and_says_the_same_again() -> None:
    assert len(text_of("system", 100)) == 100 * BYTES_PER_TOKEN
    assert text_of("system", 100).startswith(text_of("system", 99))
    assert text_of("system", 100) != text_of("other", 100)
    assert text_of("system", 0) == ""
    assert text_of("system", 6) == " dog dye die ape get lot"


def test_words_are_tokens_of_their_own() -> None:
    words = text_of("many", 50_000).split(" ")[1:]
    assert len(words) == 50_000
    assert len(set(words)) == 256
    assert all(len(word) == 3 and word.isalpha() and word.islower() for word in words)


@given(PROMPTS)
@settings(max_examples=50, deadline=None)
def test_live_blocks_are_as_many_as_those_of_the_text(prompt: Prompt) -> None:
    made, told = prompt.live_blocks(model="m"), real(prompt)
    if prompt.tokens:
        assert made.total_bytes == told.total_bytes == prompt.tokens * BYTES_PER_TOKEN
    assert [len(chain) for chain in made.chains] == [len(chain) for chain in told.chains]


@given(PAIRS)
@settings(max_examples=100, deadline=None)
def test_live_blocks_agree_where_those_of_the_text_do(
    parts: tuple[list[Segment], list[Segment], list[Segment]],
) -> None:
    begin, left, right = parts
    one, other = Prompt([*begin, *left]), Prompt([*begin, *right])
    made = in_common(one.live_blocks().chains[0], other.live_blocks().chains[0])
    told = in_common(real(one).chains[0], real(other).chains[0])
    covered_bytes = agreed_tokens(one, other) * BYTES_PER_TOKEN
    assert block_ends(made)[made] <= covered_bytes < block_ends(made + 1)[made + 1]
    # The text can only agree further where two names begin with the same words.
    assert made == told or one.text()[: covered_bytes + 4] == other.text()[: covered_bytes + 4]


@given(PAIRS, st.sampled_from([1, 16, 32]))
@settings(max_examples=100, deadline=None)
def test_kv_blocks_agree_exactly_as_far_as_the_prompts_do(
    parts: tuple[list[Segment], list[Segment], list[Segment]], block_tokens: int
) -> None:
    begin, left, right = parts
    one, other = Prompt([*begin, *left]), Prompt([*begin, *right])
    ids, others = one.block_ids(block_tokens), other.block_ids(block_tokens)
    assert len(ids) == one.tokens // block_tokens
    agreed = agreed_tokens(one, other)
    assert in_common(ids, others) == agreed // block_tokens
    agreed_bytes = agreed * BYTES_PER_TOKEN
    assert one.text()[:agreed_bytes] == other.text()[:agreed_bytes]


def agreed_tokens(one: Prompt, other: Prompt) -> int:
    """Tokens up to where the prompts part ways: whole segments, then part of one."""
    agreed = 0
    for left, right in zip(one.segments, other.segments, strict=False):
        if left.id == right.id:
            agreed += min(left.tokens, right.tokens)
        if left != right:
            break
    return agreed


def test_a_longer_prompt_keeps_the_blocks_of_a_shorter() -> None:
    short = Prompt([Segment("system", 1000), Segment("ask", 37)])
    long = short.then(Segment("answer", 300), Segment("next", 20))
    assert long.block_ids(16)[: 1037 // 16] == short.block_ids(16)
    blocks = short.live_blocks().chains[0]
    assert long.live_blocks().chains[0][: len(blocks)] == blocks


def test_part_of_a_segment_is_shared() -> None:
    whole, cut = Prompt([Segment("s", 320)]), Prompt([Segment("s", 160), Segment("t", 160)])
    assert in_common(whole.block_ids(16), cut.block_ids(16)) == 10
    assert whole.text()[:640] == cut.text()[:640]


def test_the_salt_is_in_every_block() -> None:
    prompt = Prompt([Segment("s", 4000)])
    assert in_common(prompt.block_ids(16), prompt.block_ids(16, salt="adapter-01")) == 0
    plain, tuned = prompt.live_blocks(), prompt.live_blocks(adapter="adapter-01")
    assert in_common(plain.chains[0], tuned.chains[0]) == 0
    assert in_common(real(prompt).chains[0], real(prompt, adapter="adapter-01").chains[0]) == 0


def test_empty_segments_leave_no_trace() -> None:
    assert Prompt([Segment("a", 0), Segment("b", 5)]) == Prompt([Segment("b", 5)])
    assert Prompt([]).block_ids(16) == []
    assert Prompt([]).live_blocks().chains == ([],)


def test_messages_join_what_one_role_says() -> None:
    prompt = Prompt(
        [
            Segment("shared", 2, Role.SYSTEM),
            Segment("own", 1, Role.SYSTEM),
            Segment("ask", 1),
            Segment("answer", 3, Role.ASSISTANT, literal="As it was said."),
            Segment("next", 1),
        ]
    )
    messages = prompt.messages()
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == text_of("shared", 2) + text_of("own", 1)
    assert messages[2]["content"] == "As it was said."
    assert "".join(message["content"] for message in messages) == prompt.text()


def test_block_ids_are_the_same_on_every_run() -> None:
    prompt = Prompt([Segment("system", 100), Segment("ask", 28)])
    assert prompt.block_ids(64) == [419899025170132995, 735250107434685627]
