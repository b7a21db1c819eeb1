"""A network over alignments that tells classes of sequences apart.

Source: Thoutam & Ellsworth 2024, MSAMamba, fine-tuning: a pooler over the last hidden states, dropout, one linear layer
and a sigmoid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .alphabet import GAP
from .msamamba import AlignmentNetwork

DROPOUT = 0.25


class Classifier(nn.Module):
    """Logits of classes, from the mean of the reference row's last hidden states over its bases.

    One output is made for two classes, the logit of the second: its sigmoid is the probability. More have one each.
    """

    def __init__(self, network: AlignmentNetwork, n_labels: int):
        super().__init__()
        self.network = network
        network.head.requires_grad_(False)  # it has no part in the output
        self.output = nn.Linear(network.head.in_features, 1 if n_labels == 2 else n_labels)

    def forward(self, tokens: Tensor, skip: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        """(b, outputs) float32. tokens: (b, m, l) int64; skip: see ``AlignmentNetwork.hidden``. kept: (b, d), what
        dropout multiplies by; it is drawn with the batch, so that a resumed run draws the same."""
        known = (tokens[:, 0] != GAP)[..., None]
        # A sequence without bases has no mean; it is taken as 0.
        pooled = (self.network.hidden(tokens, skip) * known).sum(1) / known.sum(1).clamp(min=1)
        return self.output(pooled if kept is None else pooled * kept).float()


def probabilities(logits: Tensor) -> Tensor:
    """(b, classes), from the outputs of a ``Classifier``."""
    if logits.shape[1] > 1:
        return logits.softmax(-1)
    return torch.sigmoid(torch.cat([-logits, logits], -1))
