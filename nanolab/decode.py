"""Step 9, one token at a time: the model's arithmetic in the order that is fast for a few rows.

Reading a prompt is work for `GPT.hidden`: many positions, large products. Afterwards each step has one position a row,
and what costs time is reading the weights and starting some hundred small operations. Here a row is a column: weights
times columns, (C, C) @ (C, B), is faster than rows times weights on a processor, query, key and value are one product,
and rotary and norm treat queries and keys together. The tests compare every number with `GPT`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from nanolab.attention import KVCache, rotary_tables
from nanolab.gpt import GPT, LOGIT_SOFTCAP
from nanolab.loss import softcapped

PACK_AFTER = 8  # steps: packing the head costs as much as some ten steps gain (LOG.md)
PACK_FROM = 16_384  # tokens of vocabulary; a smaller head stays in the processor's cache
EPSILON = torch.finfo(torch.float32).eps  # what F.rms_norm adds


class _Layer(NamedTuple):
    """The weights of a block."""

    qkv: torch.Tensor  # (q, k and v channels, C)
    c_proj: torch.Tensor  # (C, C)
    c_fc: torch.Tensor  # (4 C, C)
    mlp_c_proj: torch.Tensor  # (C, 4 C)


class Decoder:
    """A model's weights in `dtype`, ready to say one token a row. Some are copies: make a new one when weights change.

    >>> decoder = Decoder(model, torch.float32)                                  # doctest: +SKIP
    >>> decoder.logits(decoder.step([17, 4], cache, lengths=[60, 12])).shape     # doctest: +SKIP
    torch.Size([2, 300])
    """

    def __init__(self, model: GPT, dtype: torch.dtype):
        self.config, self.dtype, self.device = model.config, dtype, model.device
        self.embedding = model.transformer.wte.weight  # (V, C)
        self.head = model.lm_head.weight.to(dtype)  # (V, C)
        self.layers = [_layer(block, dtype) for block in model.transformer.h]
        self.num_heads, self.packed_head = 0, None  # how often the head was used

    def step(self, tokens: list[int], cache: KVCache, lengths: list[int]) -> torch.Tensor:
        """Append one token to each of the first rows of the cache, which hold `lengths` positions: hidden (C, B)."""
        config = self.config
        positions = torch.tensor(lengths, device=self.device)  # (B,)
        cos, sin = rotary_tables(positions[None], config.n_embd // config.n_head)  # (1, 1, B, D/2)
        cos, sin = cos[0, 0].t(), sin[0, 0].t()  # (D/2, B)
        turn = torch.cat([cos, cos]), torch.cat([sin, -sin])  # (D, B) each
        used = max(lengths) + 1
        slots, sees = self._places(cache, positions, used, len(set(lengths)) == 1)
        x = norm_columns(self.embedding[torch.tensor(tokens, device=self.device)].t())  # (C, B)
        for layer, weights in enumerate(self.layers):
            keys, values = cache.keys[layer], cache.values[layer]  # (rows, H, capacity, D)
            q, k, v = self._queries_keys_values(weights.qkv @ norm_columns(x).to(self.dtype), turn)  # (B, heads, D)
            for kept, new in ((keys, k), (values, v)):
                kept.view(-1, kept.size(3)).index_copy_(0, slots, new.reshape(-1, new.size(2)))
            B = len(tokens)
            y = F.scaled_dot_product_attention(q[:, :, None], keys[:B, :, :used], values[:B, :, :used], **sees)
            x = _add_product(x, weights.c_proj, y.reshape(B, -1).t())
            h = (weights.c_fc @ norm_columns(x).to(self.dtype)).relu_()  # (4 C, B)
            x = _add_product(x, weights.mlp_c_proj, h.mul_(h))
        return norm_columns(x)

    def best(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B,) ids with the highest logits; uncapped ones, since the cap keeps their order."""
        return self._head(hidden).argmax(dim=-1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(C, B) hidden states -> (B, V) soft-capped logits, float32."""
        return softcapped(self._head(hidden).float(), LOGIT_SOFTCAP)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, V) logits before the cap."""
        self.num_heads += 1
        hidden = hidden.to(self.dtype)
        if self.num_heads == PACK_AFTER and self.head.size(0) >= PACK_FROM:
            self.packed_head = packed(self.head, hidden.size(1))
        if self.packed_head is None:
            return (self.head @ hidden).t()
        return torch.ops.mkldnn._linear_pointwise(hidden.t().contiguous(), self.packed_head, None, "none", [], "")

    def _places(self, cache: KVCache, positions: torch.Tensor, used: int, even: bool) -> tuple[torch.Tensor, dict]:
        """Where the new keys go (rows of the cache laid flat), and who of `used` positions is seen."""
        _, _, H, capacity, _ = cache.keys.shape
        B = positions.size(0)
        heads = torch.arange(B * H, device=self.device).view(B, H) * capacity  # first slot of each row's heads
        slots = (heads + positions[:, None]).flatten()  # (B * H,)
        sees = {"enable_gqa": True} if self.config.n_head != H else {}
        if not even:
            unseen = torch.arange(used, device=self.device) > positions[:, None]  # (B, used)
            mask = torch.zeros(unseen.shape, dtype=self.dtype, device=self.device)
            sees["attn_mask"] = mask.masked_fill_(unseen, float("-inf"))[:, None, None]  # (B, 1, 1, used)
        return slots, sees

    def _queries_keys_values(self, qkv: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]):
        """(channels, B) -> q (B, n_head, D), k and v (B, n_kv_head, D): rotary, then norm, of q and k together."""
        n_head, n_kv_head, D = self.config.n_head, self.config.n_kv_head, self.config.n_embd // self.config.n_head
        heads = qkv.view(n_head + 2 * n_kv_head, D, -1)  # (heads, D, B)
        qk, v = heads.split([n_head + n_kv_head, n_kv_head])
        qk = qk * turn[0] + qk.roll(D // 2, dims=1) * turn[1]
        q, k = norm_columns(qk, dim=1).to(self.dtype).permute(2, 0, 1).split([n_head, n_kv_head], dim=1)
        return q.contiguous(), k, v.permute(2, 0, 1)


def packed(weight: torch.Tensor, num_rows: int) -> torch.Tensor | None:
    """The weight in oneDNN's own order, read twice as fast; None where torch has none: off the CPU, in older versions.

    These operators are torch's internal ones (its compiler uses them), hence the question whether they are there.
    """
    there = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not there:
        return None
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    except (RuntimeError, NotImplementedError):  # torch versions that expect another kind of tensor
        return None


def norm_columns(x: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """`attention.norm` along another dimension than the last.

    >>> norm_columns(torch.tensor([[3.0], [4.0]])).flatten().tolist()
    [0.8485281467437744, 1.1313709020614624]
    """
    mean_square = torch.linalg.vecdot(x, x, dim=dim).unsqueeze(dim) / x.size(dim)
    return x * torch.rsqrt(mean_square + EPSILON)


def _layer(block, dtype: torch.dtype) -> _Layer:
    attn, mlp = block.attn, block.mlp
    qkv = torch.cat([attn.c_q.weight, attn.c_k.weight, attn.c_v.weight])
    return _Layer(*(w.to(dtype) for w in (qkv, attn.c_proj.weight, mlp.c_fc.weight, mlp.c_proj.weight)))


def _add_product(x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + weight @ y, in x's float32."""
    return torch.addmm(x, weight, y) if weight.dtype == x.dtype else x + weight @ y
