"""A model's architecture from the config.json that Hugging Face models have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from loadtests.sim.model.catalogue import Architecture

_BYTES = {"float32": 4.0, "float8_e4m3fn": 1.0}
_QUANTIZED_BYTES = {"fp8": 1.0, "mxfp4": 0.56, "awq": 0.56, "gptq": 0.56}
"""Bytes of a weight, its part of the scales included."""


class ModelConfigError(ValueError):
    """A config.json does not say what is needed; the message says which file and which key."""


def read_architecture(path: Path, name: str = "") -> Architecture:
    """The architecture of a decoder built as Llama, Qwen, Mistral and Mixtral: gated MLP, grouped
    attention.

    ``path`` is the file or its folder; ``name`` is the model's name, by default the folder's.
    Parameters are counted from the shapes, without norms and biases. Raises ModelConfigError.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelConfigError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelConfigError(f"{file}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelConfigError(f"{file}: an object is wanted, not {type(document).__name__}")
    return _architecture(_Keys(file, document), name or file.absolute().parent.name)


class _Keys:
    """The numbers of a config; those of the text part when there are several parts."""

    def __init__(self, file: Path, document: Mapping[str, object]) -> None:
        text = document.get("text_config")
        self._file = file
        self._values = {**document, **text} if isinstance(text, dict) else dict(document)

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of these that is there."""
        for name in names:
            value = self._values.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        if default is None:
            raise ModelConfigError(f"{self._file}: {names[0]}: a number over 0 is wanted")
        return default

    def flag(self, name: str) -> bool:
        return self._values.get(name) is True

    def weight_bytes(self) -> float:
        quantization = self._values.get("quantization_config")
        if isinstance(quantization, dict):
            return _QUANTIZED_BYTES.get(str(quantization.get("quant_method")), 1.0)
        return self._bytes()

    def _bytes(self) -> float:
        kind = self._values.get("dtype") or self._values.get("torch_dtype")
        return _BYTES.get(str(kind), 2.0)


def _architecture(keys: _Keys, name: str) -> Architecture:
    layers, hidden = keys.number("num_hidden_layers"), keys.number("hidden_size")
    heads = keys.number("num_attention_heads")
    kv_heads = keys.number("num_key_value_heads", default=heads)
    head_dim = keys.number("head_dim", default=hidden // heads)
    experts = keys.number("num_local_experts", "num_experts", "n_routed_experts", default=1)
    chosen = keys.number("num_experts_per_tok", default=1)
    wide = keys.number("intermediate_size")
    expert_wide = keys.number("moe_intermediate_size", default=wide) if experts > 1 else wide
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    expert = 3 * hidden * expert_wide
    embedding = keys.number("vocab_size") * hidden
    tied = keys.flag("tie_word_embeddings")
    parameters = layers * (attention + experts * expert) + embedding * (1 if tied else 2)
    used = layers * (attention + min(chosen, experts) * expert) + embedding
    return Architecture(
        name,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        float(parameters),
        float(used),
        weight_byte_width=keys.weight_bytes(),
        experts=experts,
        experts_per_token=chosen if experts > 1 else 1,
        expert_share=layers * experts * expert / parameters if experts > 1 else 0.0,
    )
