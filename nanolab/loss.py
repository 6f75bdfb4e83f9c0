"""Step 6: targets become a loss, computed only where something is learned.

The loss never sees the model, only its last hidden states and the head's weight. It first selects the supervised
positions and only then projects them to the vocabulary: at depth 4 with 65,536 tokens the head is most of the work, and
padding and masked tokens would be projected for nothing.
"""

import torch
import torch.nn.functional as F

from nanolab.batch import IGNORE_INDEX


def softcapped(logits: torch.Tensor, softcap: float) -> torch.Tensor:
    """Squeeze logits smoothly into (-softcap, softcap). Source: Gemma 2, arXiv:2408.00118.

    >>> softcapped(torch.tensor([0.0, 1000.0]), 15.0).tolist()
    [0.0, 15.0]
    """
    return softcap * torch.tanh(logits / softcap)


def supervised_cross_entropy(
    hidden: torch.Tensor, head_weight: torch.Tensor, targets: torch.Tensor, softcap: float
) -> torch.Tensor:
    """The summed cross-entropy, in nats, over the positions that have a target.

    Args:
        hidden: (B, T, C) last hidden states. head_weight: (V, C). targets: (B, T) ids, or IGNORE_INDEX.
        softcap: the logits' bound.

    Returns: a float32 scalar; 0, with zero gradient, when no position has a target. Divide by the number of supervised
    tokens of the whole step for the mean.

    >>> loss = supervised_cross_entropy(torch.zeros(1, 2, 4), torch.zeros(8, 4), torch.tensor([[3, -1]]), 15.0)
    >>> round(loss.exp().item(), 3)
    8.0
    """
    learned = targets != IGNORE_INDEX  # (B, T)
    selected = hidden[learned]  # (N, C): N supervised positions
    logits = softcapped(F.linear(selected, head_weight).float(), softcap)  # (N, V)
    return F.cross_entropy(logits, targets[learned], reduction="sum")
