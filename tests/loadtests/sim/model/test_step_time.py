from dataclasses import replace

import pytest

from loadtests.sim.model.catalogue import H100, architecture
from loadtests.sim.model.profile import Profile
from loadtests.sim.model.step_time import StepTime, Work

LLAMA = Profile("llama", architecture("Llama-2-7b-hf"), H100)


def test_a_lone_decode_is_the_time_to_read_the_weights() -> None:
    bare = replace(LLAMA, overhead_s=0.0, sequence_s=0.0, weight_bandwidth_share=1.0)
    # 6.738e9 parameters x 2 bytes / 3.35e12 bytes per second
    assert StepTime(bare).decode_s(1, 0) == pytest.approx(4.02e-3, rel=0.01)


def test_context_costs_its_kv_bytes() -> None:
    time = StepTime(replace(LLAMA, kv_bandwidth_share=1.0))
    # 2 x 32 layers x 4096 x 2 bytes = 512 KiB a token
    tokens = 10_000
    added_s = time.decode_s(8, tokens) - time.decode_s(8, 0)
    assert added_s == pytest.approx(tokens * 524288 / 3.35e12)


def test_a_long_prefill_is_arithmetic() -> None:
    bare = replace(LLAMA, overhead_s=0.0, mixed_layer_s=0.0, compute_share=0.5)
    tokens = 8192
    arithmetic_s = 2 * LLAMA.model.active_parameters * tokens / (989e12 * 0.5)
    assert StepTime(bare).step_s(Work(tokens)) == pytest.approx(arithmetic_s, rel=0.01)


def test_grouped_keys_are_split_among_accelerators_only_as_far_as_they_go() -> None:
    model = architecture("Qwen/Qwen2.5-7B-Instruct")  # 4 KV heads
    four = StepTime(Profile("four", model, H100, 4)).context_token_s
    eight = StepTime(Profile("eight", model, H100, 8)).context_token_s
    assert four == eight


def test_few_tokens_do_not_read_all_experts() -> None:
    time = StepTime(Profile("moe", architecture("mistralai/Mixtral-8x7B-v0.1"), H100, 2))
    one, few, many = time.decode_s(1, 0), time.decode_s(4, 0), time.decode_s(32, 0)
    assert one < 0.5 * many
    assert few < many


def test_a_batch_is_padded_to_the_next_graph() -> None:
    time = StepTime(replace(LLAMA, sequence_s=0.0))
    assert time.decode_s(17, 0) == time.decode_s(24, 0)
    assert time.decode_s(24, 0) < time.decode_s(25, 0)


def test_large_messages_leave_the_one_stage_all_reduce() -> None:
    # 8192 hidden x 2 bytes: 32 tokens reach 512 KiB.
    profile = Profile("70b", architecture("Llama-2-70b-hf"), H100, 4, sequence_s=0.0)
    two_stage = replace(profile, two_stage_all_reduce_s=5e-6)
    for sequences, added_s in ((24, 0.0), (32, 160 * 5e-6)):
        difference = StepTime(two_stage).decode_s(sequences, 0) - StepTime(profile).decode_s(
            sequences, 0
        )
        assert difference == pytest.approx(added_s)


def test_attention_of_grouped_heads_loses_waves_when_there_are_many_tiles() -> None:
    """Four KV heads an accelerator: 128 sequences are 3.9 waves on 132 multiprocessors."""
    grouped = StepTime(
        Profile("grouped", architecture("codellama/CodeLlama-34b-Instruct-hf"), H100, 2)
    )
    whole = StepTime(Profile("whole", architecture("meta-llama/Llama-2-7b-hf"), H100, 1))
    for sequences in (1, 16, 33):
        assert grouped.reading_s(sequences) == grouped.context_token_s
    assert grouped.reading_s(128) == pytest.approx(1.574 * grouped.context_token_s, rel=1e-3)
    assert whole.reading_s(128) == whole.context_token_s
