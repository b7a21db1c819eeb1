"""What a network that reads DNA is: its architecture and sizes. Nothing here needs torch or numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..config import check_counts, made
from ..errors import ConfigError

# As ``tokens`` counts them: single bases; 6-mers and single bases.
BASES, SIX_MERS = 6, 4102
REVERSE_COMPLEMENTS = ("shared", "posthoc")


def _check(config: Any, architecture: str, *counts: str) -> None:
    if config.architecture != architecture:
        raise ConfigError(f"architecture {config.architecture}: these are the settings of {architecture}")
    check_counts(**{name: getattr(config, name) for name in counts})


@dataclass(frozen=True)
class CaduceusConfig:
    """Bidirectional Mamba. d_model: channels (of one strand); d_state, d_conv, expand: those of Mamba.

    reverse_complement: "shared", one set of weights reads both strands and what it says of one is what it says of the
    other (Caduceus-PS); "posthoc", it reads one strand, and both may be averaged when it is used (Caduceus-Ph).
    Raises ConfigError.
    """

    architecture: str = "caduceus"
    d_model: int = 96
    n_layers: int = 4
    d_state: int = 8
    d_conv: int = 4
    expand: int = 2
    vocabulary: int = BASES
    reverse_complement: str = "shared"

    def __post_init__(self) -> None:
        _check(self, "caduceus", "d_model", "n_layers", "d_state", "d_conv", "expand", "vocabulary")
        if self.reverse_complement not in REVERSE_COMPLEMENTS:
            raise ConfigError(
                f"reverse_complement {self.reverse_complement}: choose from {', '.join(REVERSE_COMPLEMENTS)}"
            )
        if self.reverse_complement == "shared" and self.vocabulary != BASES:
            raise ConfigError(f"vocabulary {self.vocabulary}: only the {BASES} tokens of bases have a complement")


@dataclass(frozen=True)
class HawkConfig:
    """Bidirectional Hawk. d_rnn: width of the recurrence; n_blocks: of its gates' block-diagonal weights; d_conv:
    width of the convolution; expand: hidden width of the gated MLP, in widths of the model. Raises ConfigError."""

    architecture: str = "hawk"
    d_model: int = 72
    n_layers: int = 4
    d_rnn: int = 96
    n_blocks: int = 4
    d_conv: int = 4
    expand: int = 3
    vocabulary: int = BASES

    def __post_init__(self) -> None:
        _check(self, "hawk", "d_model", "n_layers", "d_rnn", "n_blocks", "d_conv", "expand", "vocabulary")
        if self.d_rnn % self.n_blocks:
            raise ConfigError(f"n_blocks {self.n_blocks}: the blocks share d_rnn {self.d_rnn} equally")


@dataclass(frozen=True)
class NTConfig:
    """Transformer with rotary positions. d_mlp: hidden width of the gated MLP.

    position_interpolation: token p counts as position p / position_interpolation, so that an input this many times
    longer than those of training has the positions of training. max_tokens: longest input, in tokens; every token
    attends to every other. Raises ConfigError.
    """

    architecture: str = "ntv2"
    d_model: int = 64
    n_layers: int = 4
    n_heads: int = 4
    d_mlp: int = 128
    vocabulary: int = SIX_MERS
    position_interpolation: float = 1.0
    max_tokens: int = 200_000

    def __post_init__(self) -> None:
        _check(self, "ntv2", "d_model", "n_layers", "n_heads", "d_mlp", "vocabulary", "max_tokens")
        if self.d_model % (8 * self.n_heads):  # other heads do not suit the fused attention kernels of CUDA
            raise ConfigError(f"n_heads {self.n_heads}: each needs 8, 16, 24 ... of the {self.d_model} of d_model")
        if not 0 < self.position_interpolation < math.inf:
            raise ConfigError(f"position_interpolation {self.position_interpolation}: above 0; 1 changes nothing")


DNAConfig = CaduceusConfig | HawkConfig | NTConfig
ARCHITECTURES: dict[str, type] = {"caduceus": CaduceusConfig, "hawk": HawkConfig, "ntv2": NTConfig}
PRESETS: dict[str, dict[str, DNAConfig]] = {
    "caduceus": {
        "tiny": CaduceusConfig(),
        "base-50m": CaduceusConfig(d_model=768, n_layers=12, d_state=16),
    },
    "hawk": {
        "tiny": HawkConfig(),
        "base-50m": HawkConfig(d_model=576, n_layers=11, d_rnn=768, n_blocks=12),
    },
    "ntv2": {
        "tiny": NTConfig(),
        "base-50m": NTConfig(d_model=512, n_layers=12, n_heads=16, d_mlp=2048),
    },
}


def dna_config(values: dict[str, Any], what: str = "model") -> DNAConfig:
    """Settings from plain values, "architecture" among them. Raises ConfigError, which names ``what``."""
    architecture = values.get("architecture")
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"{what}: architecture {architecture}: choose from {', '.join(ARCHITECTURES)}")
    return made(ARCHITECTURES[architecture], values, what)


def preset(architecture: str, name: str) -> DNAConfig:
    """Raises ConfigError for one that does not exist."""
    if architecture not in PRESETS:
        raise ConfigError(f"--model {architecture}: choose from {', '.join(PRESETS)}")
    if name not in PRESETS[architecture]:
        raise ConfigError(f"--preset {name}: choose from {', '.join(PRESETS[architecture])}")
    return PRESETS[architecture][name]
