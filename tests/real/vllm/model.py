"""Makes a tiny Llama model folder and a LoRA adapter for it, the same bytes every time.

    VLLM_PYTHON tests/real/vllm/model.py FOLDER

Runs under vLLM's interpreter, which has tokenizers and safetensors; `make` does that for you.

The weights are random but for one thing: the first hidden channel is made constant, and the
output layer uses it to allow only tokens that are a space and a whole word. So every answer is
readable text that tokenizes back to the very tokens that were generated, and a conversation's next
turn extends the last one token by token, the assistant's answer included. The end-of-text token is
never produced either: an answer is always as long as its max_tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

VOCABULARY_TOKENS = 2048
MAX_MODEL_TOKENS = 8192
HIDDEN, LAYERS, HEADS, KV_HEADS, MLP = 64, 2, 2, 2, 128
ADAPTER_RANK = 8
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# A turn always renders to the same text, whatever follows it: nothing depends on the last message.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SEED = 20
_MARKER = "made-by"


@dataclass(frozen=True, slots=True)
class TinyModel:
    """Where the model and its adapter are, for `--model` and `--lora-modules`."""

    base: Path
    adapter: Path


class ModelError(Exception):
    """The model could not be made; the message carries the interpreter's own."""


def make(folder: Path, interpreter: Path) -> TinyModel:
    """Makes the model in `folder` unless this very module made it there. Raises ModelError."""
    model = TinyModel(base=folder / "base", adapter=folder / "adapter")
    marker = folder / _MARKER
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if marker.is_file() and marker.read_text() == version:
        return model
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(interpreter), __file__, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ModelError(f"{interpreter} could not make the model in {folder}:\n{done.stderr}")
    marker.write_text(version)
    return model


def words(count: int, seed: int = SEED) -> list[str]:
    """Made-up words, each two or three syllables, all different; the tokenizer's vocabulary."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choices(syllables, k=rng.choice((2, 3))))] = None
    return list(found)


def sentence(length_words: int, seed: int) -> str:
    """Text in the model's own words: about one token a word."""
    return " ".join(random.Random(seed).choices(words(_WORDS), k=length_words))


_WORDS = 800


def _write_tokenizer(folder: Path) -> list[int]:
    """Writes the tokenizer; returns the ids of tokens that are a space and a whole word."""
    from tokenizers import (  # type: ignore[import-not-found,unused-ignore]
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    vocabulary = words(_WORDS)
    corpus = [" " + " ".join(vocabulary), "\n".join(["system", "user", "assistant"] * 50)]
    tokenizer.train_from_iterator(corpus * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "model_max_length": MAX_MODEL_TOKENS,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    encoded = [tokenizer.encode(" " + word).ids for word in vocabulary]
    return [ids[0] for ids in encoded if len(ids) == 1]


def _write_base(folder: Path, answer_ids: list[int]) -> None:
    import numpy as np
    from safetensors.numpy import save_file  # type: ignore[import-not-found,unused-ignore]

    rng = np.random.default_rng(SEED)

    def normal(rows: int, columns: int, scale: float = 0.08) -> np.ndarray[tuple[int, int]]:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    embedding = normal(VOCABULARY_TOKENS, HIDDEN, scale=1.0)
    embedding[:, 0] = 4.0
    output = normal(VOCABULARY_TOKENS, HIDDEN, scale=0.2)
    output[:, 0] = -20.0
    output[answer_ids, 0] = 0.0
    weights = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": output,
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    kv_width = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (kv_width, HIDDEN),
        "self_attn.v_proj": (kv_width, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, shape in shapes.items():
            weight = normal(*shape)
            if name in ("self_attn.o_proj", "mlp.down_proj"):
                weight[0] = 0.0  # nothing is added to the constant channel
            weights[f"{prefix}.{name}.weight"] = weight
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = np.ones(HIDDEN, np.float32)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": MLP,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "vocab_size": VOCABULARY_TOKENS,
            "max_position_embeddings": MAX_MODEL_TOKENS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": 0,
        },
    )


def _write_adapter(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(SEED + 1)
    weights = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for part, shape in (("A", (ADAPTER_RANK, HIDDEN)), ("B", (HIDDEN, ADAPTER_RANK))):
                weight = rng.standard_normal(shape).astype(np.float32)
                weights[f"{prefix}.lora_{part}.weight"] = weight
    save_file(weights, str(folder / "adapter_model.safetensors"))
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "tiny",
            "r": ADAPTER_RANK,
            "lora_alpha": 2 * ADAPTER_RANK,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": ["q_proj", "v_proj"],
        },
    )


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write(folder: Path) -> None:
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True, exist_ok=True)
    adapter.mkdir(parents=True, exist_ok=True)
    _write_base(base, _write_tokenizer(base))
    _write_adapter(adapter)


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
