"""Public facts of models and accelerators: what their config.json and data sheets say."""

from __future__ import annotations

from dataclasses import dataclass


class UnknownArchitectureError(ValueError):
    """A model whose architecture is not in the catalogue; the message lists those that are."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts of a model on which its speed depends."""

    name: str
    layers: int
    hidden_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    parameters: float
    """Number of all parameters."""
    active_parameters: float
    """Those that a token is multiplied with: without the experts that it does not use, and without
    the embedding."""
    weight_byte_width: float = 2.0
    kv_byte_width: float = 2.0
    experts: int = 1
    experts_per_token: int = 1
    expert_share: float = 0.0
    """Share of the parameters that belong to experts."""

    @property
    def weight_bytes(self) -> float:
        """Sum over all accelerators."""
        return self.parameters * self.weight_byte_width

    @property
    def expert_weight_bytes(self) -> float:
        """Sum over all accelerators; 0 for a dense model."""
        return self.weight_bytes * self.expert_share

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of all layers, on all accelerators together."""
        return 2.0 * self.layers * self.kv_heads * self.head_dim * self.kv_byte_width


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The facts of one accelerator's data sheet; arithmetic is dense, 16 bits."""

    name: str
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    peak_flops: float
    link_bandwidth_bytes_per_s: float
    """To the others of its tensor parallel group, in one direction."""
    multiprocessors: int = 132
    """Units that work on tiles of attention at the same time; 0: it has no such units."""


H100 = Accelerator("h100", 84.93e9, 3.35e12, 989e12, 450e9)
ACCELERATORS = {
    accelerator.name: accelerator
    for accelerator in (
        H100,
        Accelerator("h200", 150.0e9, 4.8e12, 989e12, 450e9),
        Accelerator("a100-80gb", 84.93e9, 2.04e12, 312e12, 300e9, 108),
        Accelerator("l40s", 47.7e9, 0.864e12, 362e12, 32e9, 142),
        Accelerator("b200", 192.0e9, 8.0e12, 2250e12, 900e9, 148),
        Accelerator("tpu-v7x", 206.0e9, 7.4e12, 2307e12, 600e9, 0),
    )
}


def _dense(
    name: str, layers: int, hidden: int, heads: tuple[int, int, int], parameters: float, vocab: int
) -> Architecture:
    query, kv, dim = heads
    active = parameters - vocab * hidden
    return Architecture(name, layers, hidden, query, kv, dim, parameters, active)


ARCHITECTURES = {
    architecture.name.lower(): architecture
    for architecture in (
        _dense("meta-llama/Llama-2-7b-hf", 32, 4096, (32, 32, 128), 6.738e9, 32000),
        _dense("meta-llama/Llama-2-13b-hf", 40, 5120, (40, 40, 128), 13.016e9, 32000),
        _dense("meta-llama/Llama-2-70b-hf", 80, 8192, (64, 8, 128), 68.977e9, 32000),
        _dense("codellama/CodeLlama-34b-Instruct-hf", 48, 8192, (64, 8, 128), 33.744e9, 32000),
        _dense("meta-llama/Llama-3.1-8B-Instruct", 32, 4096, (32, 8, 128), 8.030e9, 128256),
        _dense("meta-llama/Llama-3.1-70B-Instruct", 80, 8192, (64, 8, 128), 70.554e9, 128256),
        _dense("meta-llama/Llama-3.3-70B-Instruct", 80, 8192, (64, 8, 128), 70.554e9, 128256),
        _dense("mistralai/Mistral-7B-v0.1", 32, 4096, (32, 8, 128), 7.242e9, 32000),
        _dense("Qwen/Qwen2.5-7B-Instruct", 28, 3584, (28, 4, 128), 7.616e9, 152064),
        _dense("Qwen/Qwen3-8B", 36, 4096, (32, 8, 128), 8.191e9, 151936),
        _dense("Qwen/Qwen3-14B", 40, 5120, (40, 8, 128), 14.768e9, 151936),
        _dense("Qwen/Qwen3-32B", 64, 5120, (64, 8, 128), 32.762e9, 151936),
        _dense("Qwen/Qwen3-VL-32B-Instruct", 64, 5120, (64, 8, 128), 32.762e9, 151936),
        Architecture(
            "mistralai/Mixtral-8x7B-v0.1", 32, 4096, 32, 8, 128, 46.703e9, 12.749e9,
            experts=8, experts_per_token=2, expert_share=0.9655,
        ),
        Architecture(
            "openai/gpt-oss-120b", 36, 2880, 64, 8, 64, 116.83e9, 5.13e9 - 0.58e9,
            weight_byte_width=0.56, experts=128, experts_per_token=4, expert_share=0.981,
        ),
        Architecture(
            "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", 62, 6144, 96, 8, 128, 480.15e9, 34.5e9,
            weight_byte_width=1.0, experts=160, experts_per_token=8, expert_share=0.973,
        ),
    )
}  # fmt: skip
"""By lower-case name; figures from the models' published config.json files."""


def architecture(name: str) -> Architecture:
    """Facts of a known model. Raises UnknownModelError with what is known."""
    key = name.lower()
    found = ARCHITECTURES.get(key)
    if found is None:
        tail = key.rsplit("/", 1)[-1]
        found = next((a for k, a in ARCHITECTURES.items() if k.rsplit("/", 1)[-1] == tail), None)
    if found is None:
        known = ", ".join(sorted(a.name for a in ARCHITECTURES.values()))
        raise UnknownArchitectureError(
            f"model {name!r}: its architecture is not known here; known are {known}. Give its "
            "config.json (penstock lab fit --model NAME --config FILE), or a profile file that has "
            "it under `model`"
        )
    return found


def know(found: Architecture) -> None:
    """Add an architecture, so that `architecture` finds it by its name."""
    ARCHITECTURES[found.name.lower()] = found
