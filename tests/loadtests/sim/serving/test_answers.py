import random

from hypothesis import given
from hypothesis import strategies as st

from loadtests.sim.serving import tokens
from loadtests.sim.serving.answers import AnswerLengths, OutputLimits, PlannedAnswer, write_answer

LENGTHS = AnswerLengths(median_tokens=50, shortest_tokens=10)


def answer(prompt: str = "why", choice: int = 0, **limits: object) -> PlannedAnswer:
    given_limits = OutputLimits(**{"max_tokens": 1000, **limits})  # type: ignore[arg-type]
    return write_answer(tokens.encode(prompt), given_limits, LENGTHS, seed=7, choice=choice)


def test_same_question_same_answer() -> None:
    assert answer() == answer()
    assert answer().text != answer("how").text
    assert answer().text != answer(choice=1).text
    assert answer().text != answer(seed=1).text


@given(st.text(max_size=20), st.integers(1, 5000), st.booleans())
def test_the_text_tokenizes_to_what_was_generated(
    prompt: str, max_tokens: int, ignore_eos: bool
) -> None:
    made = answer(prompt, max_tokens=max_tokens, ignore_eos=ignore_eos)
    end = tokens.TURN_END if made.finish_reason == "stop" else b""
    assert tokens.encode(made.text) + end == made.tokens
    assert tokens.count(made.tokens) <= max_tokens
    assert "".join(made.piece(i, i + 1) for i in range(tokens.count(made.tokens))) == made.text


def test_max_tokens_cuts_and_says_so() -> None:
    made = answer(max_tokens=5)
    assert (tokens.count(made.tokens), made.finish_reason) == (5, "length")


def test_ignore_eos_goes_on_to_the_limit() -> None:
    made = answer(max_tokens=20_000, ignore_eos=True)
    assert (tokens.count(made.tokens), made.finish_reason) == (20_000, "length")


def test_min_tokens_delays_the_end() -> None:
    made = answer(max_tokens=900, min_tokens=800)
    assert tokens.count(made.tokens) > 800
    assert made.finish_reason == "stop"


def test_a_stop_string_ends_the_text_before_it() -> None:
    whole = answer().text
    stop = whole[9:14]
    cut = answer(stop=(stop, "never found"))
    assert cut.text == whole[: whole.index(stop)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)


def test_a_stop_string_waits_for_min_tokens() -> None:
    cut = answer(stop=(" ",), min_tokens=6)
    assert tokens.count(cut.tokens) >= 6
    assert cut.finish_reason == "stop"


def test_natural_lengths_scatter_about_their_median() -> None:
    rng = random.Random(3)
    drawn = sorted(LENGTHS.draw(rng) for _ in range(999))
    assert drawn[0] >= LENGTHS.shortest_tokens
    assert 40 < drawn[499] < 60
