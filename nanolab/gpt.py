"""Step 5: inputs become hidden states and logits. nanochat's model of November 2025, and its parameter names.

Width is 64 per layer, heads of 128, rotary positions then QK norm, a norm after the embedding, ReLU squared, no biases,
no learned norm weights, an untied head, logits soft-capped at 15. Source: karpathy/nanochat, nanochat/gpt.py; the same
model is `NanoChatForCausalLM` in transformers, which the tests compare with.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nanolab.attention import CacheWindow, CausalSelfAttention, norm, rotary_tables
from nanolab.batch import IGNORE_INDEX, positions_in_documents
from nanolab.loss import reduce_tile, softcapped, supervised_cross_entropy

WIDTH_PER_LAYER = 64
HEAD_DIM = 128
LOGIT_SOFTCAP = 15.0


@dataclass
class GPTConfig:
    """The shape of a model; saved with its weights. Field names as in nanochat's checkpoints."""

    sequence_len: int = 1024  # tokens a row in base training; longer inputs work too
    vocab_size: int = 65_536
    n_layer: int = 4
    n_head: int = 2
    n_kv_head: int = 2  # fewer than n_head: several query heads share a key head
    n_embd: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}.")
        if self.n_embd % (2 * self.n_head) or self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_embd {self.n_embd} must be an even multiple of n_head {self.n_head}, "
                f"and that a multiple of n_kv_head {self.n_kv_head}."
            )

    @classmethod
    def from_depth(cls, depth: int, vocab_size: int, sequence_len: int = 1024) -> "GPTConfig":
        """The one number that sizes a model: "d4" is depth 4, width 256, 2 heads.

        >>> GPTConfig.from_depth(20, 65_536).n_embd, GPTConfig.from_depth(20, 65_536).n_head
        (1280, 10)
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        width = depth * WIDTH_PER_LAYER
        heads = max(1, math.ceil(width / HEAD_DIM))
        if width % heads:
            raise ValueError(
                f"depth {depth} gives width {width}, which {heads} heads cannot share evenly; try {depth + 1}."
            )
        return cls(sequence_len, vocab_size, depth, heads, heads, width)


class MLP(nn.Module):
    """Four times wider, ReLU squared, back again."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) to (B, T, C), each position by itself."""
        h = F.relu(self.c_fc(x))  # (B, T, 4 C)
        return self.c_proj(h * h)  # not h.square(): autocast on CUDA makes powers in float32


class Block(nn.Module):
    """Attention, then MLP, each added to the stream it reads from."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.attn = CausalSelfAttention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cache: CacheWindow | None = None,
        borders: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (B, T, C) to (B, T, C); `cache` and `borders` as in CausalSelfAttention."""
        x = x + self.attn(norm(x), cos, sin, cache, borders)
        return x + self.mlp(norm(x))


def run_block(
    block: Block,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cache: CacheWindow | None,
    borders: torch.Tensor | None,
) -> torch.Tensor:
    """block(x, ...), as a function: what compiled.py compiles once for all blocks of a model."""
    return block(x, cos, sin, cache, borders)


class GPT(nn.Module):
    """`model(inputs)` gives logits (B, T, V); `model(inputs, targets)` the mean loss over supervised tokens.

    >>> model = GPT(GPTConfig.from_depth(2, vocab_size=300))
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 300])
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "h": nn.ModuleList([Block(config, layer) for layer in range(config.n_layer)]),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Fresh weights: matrices as in arXiv:2310.17813; what writes to the stream, and the head, starts at zero."""
        for name, weight in self.named_parameters():
            if name == "transformer.wte.weight":
                nn.init.normal_(weight, std=1.0)
            elif name == "lm_head.weight" or name.endswith("c_proj.weight"):
                nn.init.zeros_(weight)  # so that a new model says every token with probability 1 / V
            else:
                fan_out, fan_in = weight.shape
                nn.init.normal_(weight, std=min(1.0, math.sqrt(fan_out / fan_in)) / math.sqrt(fan_in))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def hidden(
        self,
        inputs: torch.Tensor,
        positions: torch.Tensor | None = None,
        cache: CacheWindow | None = None,
        borders: torch.Tensor | None = None,
        run_block: Callable = run_block,
    ) -> torch.Tensor:
        """The last hidden states, normed: (B, T) ids -> (B, T, C).

        `positions` (B or 1, T) default to 0 ... T-1; with `cache` they go on behind what each row holds; with `borders`
        (documents + 1,) of one flat row they restart in each document, and attention stays inside documents.
        `run_block` runs a block; a compiled one may be given.
        """
        if positions is None and cache is not None:
            positions = cache.positions
        elif positions is None and borders is not None:
            positions = positions_in_documents(borders, inputs.size(1))
        elif positions is None:
            positions = torch.arange(inputs.size(1), device=inputs.device)[None]  # (1, T)
        cos, sin = rotary_tables(positions, self.config.n_embd // self.config.n_head)
        x = norm(self.transformer.wte(inputs))  # (B, T) -> (B, T, C)
        for block in self.transformer.h:
            x = run_block(block, x, cos, sin, cache, borders)
        return norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., C) hidden states -> (..., V) soft-capped logits, float32."""
        return softcapped(self.lm_head(hidden).float(), LOGIT_SOFTCAP)

    def forward(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor | None = None,
        loss_reduction: str = "mean",
        borders: torch.Tensor | None = None,
        run_block: Callable = run_block,
        reduce_tile: Callable = reduce_tile,
    ) -> torch.Tensor:
        """Logits (B, T, V), or with targets (B, T) the loss over supervised positions as "mean" or "sum".

        `borders`: of the documents in one flat row, see `hidden`. With nothing supervised the loss is 0 (not 0/0), and
        so is its gradient. `run_block` and `reduce_tile`: compiled forms of gpt.run_block and loss.reduce_tile.
        """
        hidden = self.hidden(inputs, borders=borders, run_block=run_block)
        if targets is None:
            return self.logits(hidden)
        loss_sum = supervised_cross_entropy(hidden, self.lm_head.weight, targets, LOGIT_SOFTCAP, reduce_tile)
        if loss_reduction == "sum":
            return loss_sum
        if loss_reduction == "mean":
            return loss_sum / (targets != IGNORE_INDEX).sum().clamp(min=1)
        raise ValueError(f'loss_reduction must be "mean" or "sum", got {loss_reduction!r}.')

    def num_parameters(self) -> dict[str, int]:
        """Numbers of weights: embedding, head, matrices (the blocks), total."""
        embedding, head = self.transformer.wte.weight.numel(), self.lm_head.weight.numel()
        matrices = sum(weight.numel() for weight in self.transformer.h.parameters())
        return {
            "embedding": embedding,
            "head": head,
            "matrices": matrices,
            "total": embedding + head + matrices,
        }
