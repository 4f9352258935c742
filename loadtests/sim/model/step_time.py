"""How long one step of an engine takes: a small physical model with named parameters.

    step = overhead + sequences x per-sequence
         + matmul(tokens) + KV of the decoding sequences / memory bandwidth
         + attention of the prefill chunks + all-reduces(tokens) + what mixed steps add

    matmul(tokens) = (weights read ^ 3 + arithmetic ^ 3) ^ 1/3: the longer of the two hides most of
    the other. This is the usual roofline (Williams et al. 2009) with a rounded corner.

Attention of a decode step is work in tiles, one for each sequence and KV head of an accelerator.
With grouped heads, W = tiles / multiprocessors waves take (1 + tail (1 - 1/W) / W) times as long as
reading the KV: up to one wave the kernel splits contexts so that all multiprocessors have work;
beyond, the last waves are partly empty. The form was chosen, and the tail of 3 waves fitted, on one
overloaded server of 4 KV heads an accelerator; attention without groups shows none of it.

A decode step is linear in the context. Because of this the engine can skip over equal steps.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from loadtests.sim.model.profile import Profile

_CORNER = 3.0
_GRAPH_SIZES: tuple[int, ...] = (1, 2, 4, *range(8, 513, 8))
"""Batch sizes for which vLLM captures CUDA graphs; a decode batch is padded to the next one."""
_ONE_STAGE_BYTES = {2: 1 << 62, 4: 512 << 10, 8: 256 << 10}
"""By tensor parallel size: from this size on, a message is too large for vLLM's one-stage
all-reduce."""
_MANY = 64
"""Number of tokens after which practically every expert has been used."""


@dataclass(slots=True)
class Work:
    """What a step computes."""

    prefill_tokens: int = 0
    prefill_pairs: float = 0.0
    """Sum over prefill chunks of token x context: what attention's arithmetic grows with."""
    decode_sequences: int = 0
    decode_context_tokens: int = 0
    """KV tokens that the decoding sequences read, all together."""
    prefill_context_tokens: int = 0
    """KV tokens that the prefill chunks read, all together."""


class StepTime:
    """Durations in seconds, of one profile."""

    def __init__(self, profile: Profile) -> None:
        model, gpu, shards = profile.model, profile.accelerator, profile.tensor_parallel
        rate_bytes = gpu.memory_bandwidth_bytes_per_s * shards
        rate_flops = gpu.peak_flops * shards
        self._profile = profile
        self._dense_read_s = (model.weight_bytes - model.expert_weight_bytes) / (
            rate_bytes * profile.weight_bandwidth_share
        )
        self._expert_read_s = model.expert_weight_bytes / (
            rate_bytes * profile.weight_bandwidth_share
        )
        self._arithmetic_s = 2.0 * model.active_parameters / (rate_flops * profile.compute_share)
        self._pair_s = (
            4.0
            * model.layers
            * model.attention_heads
            * model.head_dim
            / (rate_flops * profile.attention_share)
        )
        kv_shards = min(shards, model.kv_heads)
        self.context_token_s = model.kv_bytes_per_token / (
            gpu.memory_bandwidth_bytes_per_s * kv_shards * profile.kv_bandwidth_share
        )
        """Time to read one more token of context."""
        grouped = model.attention_heads > model.kv_heads
        tiles = model.kv_heads / kv_shards if grouped else 0.0
        self._wave_share = tiles / gpu.multiprocessors if gpu.multiprocessors else 0.0
        """Waves of tiles that a decoding sequence adds."""
        self._link_token_s = (
            2.0 * model.layers * model.hidden_size * 2.0 * 2.0 * (shards - 1) / shards
        ) / (gpu.link_bandwidth_bytes_per_s * profile.link_bandwidth_share)
        self._mixed_s = profile.mixed_layer_s * model.layers
        self._two_stage_s = profile.two_stage_all_reduce_s * 2 * model.layers
        limit = _ONE_STAGE_BYTES.get(shards, 1 << 62 if shards == 1 else 256 << 10)
        self._one_stage_tokens = limit / (model.hidden_size * 2)
        self._decode_base: dict[int, float] = {}

    def decode_s(self, sequences: int, context_tokens: int) -> float:
        """A step of decoding sequences only."""
        base_s = self._decode_base.get(sequences)
        if base_s is None:
            base_s = self._decode_base[sequences] = (
                self._profile.overhead_s
                + sequences * self._profile.sequence_s
                + self._tokens_s(_padded(sequences))
            )
        return base_s + self.reading_s(sequences) * context_tokens

    def reading_s(self, sequences: int) -> float:
        """Time that one more token of context adds to a step with so many decoding sequences."""
        waves = sequences * self._wave_share
        if waves <= 1.0:
            return self.context_token_s
        tail = self._profile.grouped_tail_waves * (1.0 - 1.0 / waves) / waves
        return self.context_token_s * (1.0 + tail)

    def step_s(self, work: Work) -> float:
        """Any step."""
        if not work.prefill_tokens:
            return self.decode_s(work.decode_sequences, work.decode_context_tokens)
        return (
            self._profile.overhead_s
            + self._mixed_s
            + work.decode_sequences * self._profile.sequence_s
            + self._tokens_s(work.prefill_tokens + work.decode_sequences)
            + self._pair_s * work.prefill_pairs
            + self.context_token_s * work.prefill_context_tokens
            + self.reading_s(work.decode_sequences) * work.decode_context_tokens
        )

    def _tokens_s(self, tokens: int) -> float:
        read_s = self._dense_read_s
        if self._expert_read_s:
            model = self._profile.model
            idle = (1.0 - model.experts_per_token / model.experts) ** min(tokens, _MANY)
            read_s += self._expert_read_s * (1.0 - idle)
        arithmetic_s = self._arithmetic_s * tokens
        matmul_s = (read_s**_CORNER + arithmetic_s**_CORNER) ** (1.0 / _CORNER)
        if tokens >= self._one_stage_tokens:
            matmul_s += self._two_stage_s
        return float(matmul_s) + self._link_token_s * tokens


def _padded(sequences: int) -> int:
    if sequences > _GRAPH_SIZES[-1]:
        return sequences
    return _GRAPH_SIZES[bisect_left(_GRAPH_SIZES, sequences)]
