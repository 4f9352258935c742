"""Block hash chains."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.prompt.blocks import HASH_MASK, block_ends, hash_blocks
from picker.prompt.forms import Form, Prompt, read_prompt


def chain(text: bytes, **salts: str) -> list[int]:
    salts.setdefault("model", "m")
    return hash_blocks(Prompt((text,), len(text), 0), **salts).chains[0]


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_blocks_grow_with_their_position_at_fixed_boundaries() -> None:
    ends = list(block_ends(300))
    sizes = np.diff(ends[:301])
    assert ends[0] == 0
    assert (np.diff(sizes) >= 0).all()
    assert sizes[0] == 256
    assert sizes[299] == 4096
    assert len(chain(noise(400_000))) < 250


def test_only_full_blocks_are_hashed() -> None:
    assert chain(noise(255)) == []
    assert len(chain(noise(256))) == len(chain(noise(511))) == 1
    assert len(chain(noise(512))) == 2


@given(
    shared=st.integers(0, 200_000),
    tails=st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)),
)
def test_equal_prefixes_give_equal_chains_and_no_more(shared: int, tails: tuple[int, int]) -> None:
    head = noise(shared)
    one, other = chain(head + noise(tails[0], 2)), chain(head + noise(tails[1], 3))
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    ends = block_ends(common + 1)
    assert ends[common] <= shared
    # They part in the block where the texts part (random tails may agree in a byte or two).
    if common < min(len(one), len(other)):
        assert ends[common + 1] > shared


def test_a_change_at_the_front_changes_all_that_follows() -> None:
    text = noise(50_000)
    assert not set(chain(text)) & set(chain(b"x" + text[1:]))


@pytest.mark.parametrize(
    "salts",
    [
        {"model": "n"},
        {"adapter": "a"},
        {"cache_salt": "s"},
        {"model": "m\0a"},
    ],
)
def test_model_adapter_and_cache_salt_keep_prompts_apart(salts: dict[str, str]) -> None:
    text = noise(2_000)
    assert not set(chain(text)) & set(chain(text, **salts))


def test_case_19_forms_of_one_prompt_hash_alike_and_several_sequences_have_several_chains() -> None:
    text = "x" * 3_000
    ids = list(range(700))
    for one, same in (({"prompt": text}, {"prompt": [text]}), ({"prompt": ids}, {"prompt": [ids]})):
        hashes = [
            hash_blocks(read_prompt(Form.COMPLETIONS, body), model="m").chains
            for body in (one, same)
        ]
        assert hashes[0] == hashes[1]
        assert len(hashes[0]) == 1
        assert len(hashes[0][0]) >= 10
    two = hash_blocks(read_prompt(Form.COMPLETIONS, {"prompt": [text, text]}), model="m")
    assert len(two.chains) == 2
    assert two.chains[0] == two.chains[1]
    assert two.total_bytes == 6_000


def test_token_ids_are_no_text() -> None:
    data = noise(1_024)
    as_text = hash_blocks(Prompt((data,), 1_024, 0), model="m").chains[0]
    as_ids = hash_blocks(Prompt((data,), 0, 256), model="m").chains[0]
    assert not set(as_text) & set(as_ids)


def test_hashes_fit_60_bits() -> None:
    assert all(0 <= block <= HASH_MASK for block in chain(noise(20_000)))
