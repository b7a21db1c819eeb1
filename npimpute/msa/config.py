"""Settings of the networks that read DNA alignments: frozen, checked when made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..config import check_counts, made
from ..errors import ConfigError


def _check_heads(d_model: int, n_heads: int) -> None:
    if d_model % n_heads:
        raise ConfigError(f"n_heads {n_heads}: the heads share d_model {d_model} equally, so they must divide it")


@dataclass(frozen=True)
class MSAMambaConfig:
    """Sizes of MSAMamba. Raises ConfigError.

    d_state, d_conv, expand: of Mamba, whose inner width is expand x d_model. n_heads: of column attention. mlp: hidden
    width of the MLP, in widths of the model. bidirectional: rows are scanned from both ends; if not, a masked base is
    told from the columns before it and its own alone, and half of the scanning is saved.
    """

    d_model: int = 128
    n_layers: int = 3
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    n_heads: int = 8
    mlp: int = 4
    bidirectional: bool = True

    def __post_init__(self) -> None:
        check_counts(**{name: value for name, value in asdict(self).items() if name != "bidirectional"})
        _check_heads(self.d_model, self.n_heads)


@dataclass(frozen=True)
class AxialConfig:
    """Sizes of the network of row and column attention. Raises ConfigError.

    n_heads, mlp: as in ``MSAMambaConfig``. fused: attention along rows in a kernel that keeps no (l, l) map; if not,
    maps are kept for the backward pass, and memory too grows as the square of the length.
    """

    d_model: int = 128
    n_layers: int = 3
    n_heads: int = 8
    mlp: int = 4
    fused: bool = True

    def __post_init__(self) -> None:
        check_counts(**{name: value for name, value in asdict(self).items() if name != "fused"})
        _check_heads(self.d_model, self.n_heads)
        if self.d_model // self.n_heads % 2:
            raise ConfigError(f"n_heads {self.n_heads}: rotary positions need heads of an even number of channels")


BODIES = {"msamamba": MSAMambaConfig, "axial": AxialConfig}
# Shares of auxiliary rows that skip the row mixer in a training step, unless told otherwise.
SPARSITY = {"msamamba": 0.5, "axial": 0.0}


@dataclass(frozen=True)
class MSAModelConfig:
    """A network over alignments, and the alignments that it was made for.

    architecture: one of ``BODIES``; body: that body's settings, those not named at their defaults. species: the rows
    of an alignment in their order, the reference first. length: columns of a window in training. labels: what a
    classifier tells apart; none in a masked-language model. Raises ConfigError, also for settings that do not exist.
    """

    architecture: str = "msamamba"
    body: dict[str, Any] = field(default_factory=dict)
    species: tuple[str, ...] = ()
    length: int = 512
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.architecture not in BODIES:
            raise ConfigError(f"architecture {self.architecture}: choose from {', '.join(BODIES)}")
        check_counts(length=self.length)
        for name in ("species", "labels"):
            words = tuple(getattr(self, name))
            if not all(isinstance(word, str) for word in words):
                raise ConfigError(f"{name} {list(words)}: names are words")
            object.__setattr__(self, name, words)
        if not self.species or len(set(self.species)) < len(self.species):
            raise ConfigError("species: different names are needed, the reference's first")
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels {', '.join(self.labels)}: two or more that differ are needed, or none")
        object.__setattr__(self, "body", asdict(made(BODIES[self.architecture], self.body, self.architecture)))
