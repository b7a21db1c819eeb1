"""What Caduceus and Hawk have in common: base tokens in, bidirectional recurrent layers, logits and hidden states out.

Axes: b batch, l length, e model width, v vocabulary. A strand is a sequence as it is read; the other strand is its
reverse complement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .tokens import COMPLEMENT


class Layer(Protocol):
    """A bidirectional layer. A state is what a direction carries over a cut: a tuple of tensors, None at an end."""

    def __call__(self, x: Tensor, state: tuple = (None, None)) -> tuple[Tensor, tuple]:
        """x: (b, l, e), a piece; state: what the piece before it left for the rightward direction, and what the piece
        after it left for the leftward one. Returns (b, l, e) and what this piece leaves for either."""
        ...

    def leave_left(self, x: Tensor, state: Any = None) -> Any:
        """Only what this piece leaves for the leftward direction, at less cost than the whole."""
        ...


class Bidirectional(nn.Module):
    """Embedding, layers, norm and head. shared: both strands are read by the same weights and joined, so that the
    network is equivariant; without it one strand is read, unless ``averaged`` reads both.

    The halves of an equivariant network's channels (Schiff et al. 2024, arXiv 2403.03234, section 3.2: RCPS embedding,
    blocks and norm) never meet before the head: the second half is what the first would be on the other strand, as that
    strand is read. So here they are two rows of a batch, and their joining is the equivariant head.
    """

    def __init__(self, d_model: int, vocabulary: int, layers: Iterable[nn.Module], shared: bool):
        super().__init__()
        self.shared, self.vocabulary = shared, vocabulary
        self.embedding = nn.Embedding(vocabulary, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.RMSNorm(d_model, eps=1e-6)
        self.head = nn.Linear(d_model, vocabulary, bias=False)
        self.register_buffer("complement", torch.from_numpy(COMPLEMENT).clone(), persistent=False)

    @property
    def width(self) -> int:
        """Channels of the hidden states: 2e of an equivariant network."""
        return self.head.in_features * (2 if self.shared else 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (b, l) int64. Returns logits (b, l, v) and hidden states (b, l, ``width``).

        Of an equivariant network: on the other strand, the logits are these from right to left with the letters
        exchanged, and the hidden states are these from right to left with the channels in reverse.
        """
        if self.shared:
            return self._both(tokens)
        return self.read(self._through(tokens))

    def averaged(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward``, but of a network that reads one strand the mean of both (Caduceus-Ph: post-hoc conjoining);
        its vocabulary must be that of bases. An equivariant one needs no averaging: the same as ``forward``."""
        return self._both(tokens)

    def _both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self._through(torch.cat([tokens, self.other_strand(tokens)]))
        own, other = x.chunk(2)
        return self.join(own, other.flip(1))

    def other_strand(self, tokens: Tensor) -> Tensor:
        """(b, l), as it is read. Raises ConfigError where tokens are not bases."""
        if self.vocabulary != len(self.complement):
            raise ConfigError(f"a vocabulary of {self.vocabulary}: only the tokens of single bases have a complement")
        return self.complement[tokens].flip(1)

    def _through(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x, _ = layer(x)
        return x

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden states of one strand from the last layer's output (b, l, e)."""
        hidden = self.norm(x)
        return self.head(hidden), hidden

    def join(self, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden states of both strands. own, other: (b, l, e), the last layer's outputs for either, the
        other's turned round along l so that they lie by the bases they pair with."""
        (logits, hidden), (other_logits, other_hidden) = self.read(own), self.read(other)
        other_logits = other_logits[..., self.complement]
        if self.shared:
            return logits + other_logits, torch.cat([hidden, other_hidden.flip(-1)], -1)
        return (logits + other_logits) / 2, (hidden + other_hidden) / 2
