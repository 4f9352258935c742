"""A profile: one model on one accelerator with one tensor parallel size, and how fast that is.

The model and the accelerator are public facts (`catalogue.py`). The rest is fitted by `penstock lab
fit` or assumed; `source` says which. Names have units: _s are seconds, _bytes bytes; a share is the
part of the data sheet's figure that is reached.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from loadtests.sim.model.catalogue import ACCELERATORS, Accelerator, Architecture, architecture

BUILT_IN = Path(__file__).parent.parent / "profiles"


class ProfileError(ValueError):
    """A profile that cannot be used; the message says where, what is wrong and what would be
    right."""


_DIVISORS = frozenset(
    (
        "tensor_parallel",
        "weight_bandwidth_share",
        "kv_bandwidth_share",
        "link_bandwidth_share",
        "compute_share",
        "attention_share",
        "host_bandwidth_bytes_per_s",
    )
)
"""Fields of a profile that must not be 0."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class Profile:
    """All that `step_time` and `engine` must know of a server's speed and size."""

    name: str
    model: Architecture
    accelerator: Accelerator
    tensor_parallel: int = 1
    overhead_s: float = 0.002
    """A step's fixed part: launches, collectives, sampling."""
    sequence_s: float = 5e-6
    """Per decoding sequence, besides its KV and its arithmetic."""
    mixed_layer_s: float = 20e-6
    """Per layer, for a step with prefill: it cannot use the full CUDA graph."""
    two_stage_all_reduce_s: float = 0.0
    """Per all-reduce that is too large for one stage; there are two in a layer."""
    weight_bandwidth_share: float = 0.9
    kv_bandwidth_share: float = 0.95
    grouped_tail_waves: float = 3.0
    """Waves of tiles by whose time a decode step's attention takes longer than reading the KV, for
    grouped heads and many more tiles than multiprocessors."""
    link_bandwidth_share: float = 0.7
    compute_share: float = 0.55
    attention_share: float = 0.6
    input_s: float = 0.004
    """From the client to the scheduler's queue: HTTP and validation."""
    input_token_s: float = 2e-6
    """Per prompt token on that way: tokenizing and hashing."""
    output_s: float = 0.002
    """From the end of a step to the client."""
    first_use_s: float = 0.0
    """Per step, for a fresh server's first steps with prefill: kernels are compiled or tuned."""
    adapter_load_s: float = 0.02
    """Per LoRA adapter that is in no slot, in the step that first uses it."""
    host_bandwidth_bytes_per_s: float = 25e9
    """Between each accelerator and the host's memory, for sleep and wake-up: PCIe 4.0 x16 with
    pinned memory reaches it, PCIe 5.0 about twice that."""
    remap_s: float = 0.1
    """To give up memory or get it back at sleep and wake-up, whatever its size."""
    kv_reserve_bytes: float = 0.5e9
    """Per accelerator: activations and the runtime's own memory, which the KV cache cannot have."""
    gpu_memory_utilization: float = 0.9
    source: str = ""
    """Where the numbers come from and what is assumed."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type not in ("int", "float"):
                continue
            value = getattr(self, each.name)
            if each.name in _DIVISORS and not value > 0:
                raise ProfileError(f"{each.name} is {value}, must be above 0")
            if not value >= 0:
                raise ProfileError(f"{each.name} is {value}, must not be negative")

    def what(self, each: str = "") -> str:
        """Model and accelerators, in words; ``each`` stands before the accelerators."""
        return f"{self.model.name}, {each}{self.tensor_parallel} x {self.accelerator.name}"

    def kv_blocks(self, block_size_tokens: int = 16) -> int:
        """KV blocks that fit beside the weights, as vLLM works it out at start.

        Raises ProfileError when not even one does.
        """
        shards = self.tensor_parallel
        free_bytes = (
            self.accelerator.memory_bytes * self.gpu_memory_utilization
            - self.model.weight_bytes / shards
            - self.kv_reserve_bytes
        )
        kv_bytes = self.model.kv_bytes_per_token / min(shards, self.model.kv_heads)
        if block_size_tokens < 1:
            raise ProfileError(f"block_size_tokens is {block_size_tokens}, must be at least 1")
        blocks = int(free_bytes / (kv_bytes * block_size_tokens))
        if blocks < 1:
            raise ProfileError(
                f"profile {self.name}: the weights leave no room for KV blocks on {shards} x "
                f"{self.accelerator.name}: raise tensor_parallel"
            )
        return blocks


_PROFILE = TypeAdapter(Profile)


def write_profile(profile: Profile, path: Path) -> None:
    """Write every field as YAML."""
    text = yaml.safe_dump(asdict(profile), sort_keys=False, width=96)
    path.write_text(text, encoding="utf-8")


def read_profile(path: Path) -> Profile:
    """Read a profile from YAML or JSON; `model` and `accelerator` may be names of the catalogue.

    Raises ProfileError that names file and key, UnknownArchitectureError for a name.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ProfileError(f"{path}: a mapping is wanted, not {type(document).__name__}")
    if isinstance(model := document.get("model"), str):
        document["model"] = architecture(model)
    if isinstance(chip := document.get("accelerator"), str):
        if chip not in ACCELERATORS:
            known = ", ".join(ACCELERATORS)
            raise ProfileError(f"{path}: accelerator {chip!r} is not known; known are {known}")
        document["accelerator"] = ACCELERATORS[chip]
    try:
        return _PROFILE.validate_python(document)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'profile'}: {each['msg']}"
            for each in error.errors()
        )
        raise ProfileError(f"{path}: {wrong}") from error


def built_in_names() -> list[str]:
    """The names for `built_in`, sorted."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def built_in(name: str) -> Profile:
    """A profile of the folder `profiles/`. Raises ProfileError that lists the names."""
    path = BUILT_IN / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(built_in_names())
        raise ProfileError(f"profile {name!r}: not among the built-in ones: {known}")
    return read_profile(path)


def find(text: str) -> Profile:
    """A profile by path (or a name that ends as YAML or JSON does), or a built-in one by name.

    Raises ProfileError, UnknownArchitectureError.
    """
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
        return read_profile(path)
    return built_in(text)
