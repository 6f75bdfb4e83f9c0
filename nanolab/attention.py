"""Step 5, the part where positions look at each other: rotary positions, attention, and the key-value cache."""

import torch
import torch.nn.functional as F
from torch import nn

ROTARY_BASE = 10_000


def norm(x: torch.Tensor) -> torch.Tensor:
    """Divide each vector of the last dimension by its root mean square; nothing learned, same shape."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(positions: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of each position's angles: (B or 1, T) positions -> two of (B or 1, 1, T, head_dim / 2), float32.

    Made for whatever positions arrive, so no sequence is too long for them. Source: RoFormer, arXiv:2104.09864.

    >>> cos, sin = rotary_tables(torch.tensor([[0, 1]]), head_dim=4)
    >>> cos.shape, cos[0, 0, 0].tolist()
    (torch.Size([1, 1, 2, 2]), [1.0, 1.0])
    """
    channels = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)  # (D/2,)
    frequencies = ROTARY_BASE ** (-channels / head_dim)  # (D/2,)
    angles = positions[:, None, :, None].float() * frequencies  # (B, 1, T, D/2)
    return angles.cos(), angles.sin()


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair (channel i, channel i + D/2) of x (B, H, T, D) by its position's angle; same shape and dtype.

    Turns clockwise, as nanochat's checkpoints expect (most code turns the other way; only the difference of two
    positions matters, but trained weights must keep their sign).
    """
    a, b = x.chunk(2, dim=-1)  # (B, H, T, D/2) each
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1).to(x.dtype)


class KVCache:
    """Keys and values of the positions already seen, so that each new token costs one position.

    Rows may have different lengths: row b holds `lengths[b]` positions, and what lies behind them is never looked at.

    Args:
        n_layer, shape: (B, H, capacity, D) of the keys of one layer.
    """

    def __init__(self, n_layer: int, shape: tuple[int, int, int, int], device, dtype):
        self.keys = torch.zeros((n_layer, *shape), device=device, dtype=dtype)
        self.values = torch.zeros((n_layer, *shape), device=device, dtype=dtype)
        self.lengths = torch.zeros(shape[0], dtype=torch.long, device=device)  # (B,) filled by whoever runs the model

    def insert(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values (B, H, T, D) behind each row's length; return all of them (B, H, capacity, D)."""
        B, H, T, D = k.shape
        slots = self.lengths[:, None] + torch.arange(T, device=k.device)  # (B, T)
        index = slots[:, None, :, None].expand(B, H, T, D)
        self.keys[layer].scatter_(2, index, k.to(self.keys.dtype))
        self.values[layer].scatter_(2, index, v.to(self.values.dtype))
        return self.keys[layer], self.values[layer]

    def mask(self, T: int) -> torch.Tensor:
        """(B, 1, T, capacity) True where query t of a row may look: everything before it and itself."""
        query = self.lengths[:, None] + torch.arange(T, device=self.lengths.device)  # (B, T) absolute positions
        key = torch.arange(self.keys.size(3), device=self.lengths.device)  # (capacity,)
        return (key <= query[:, :, None])[:, None]


class CausalSelfAttention(nn.Module):
    """Each position mixes the values of itself and those before it, weighted by how well keys match its query."""

    def __init__(self, config, layer: int):
        super().__init__()
        self.layer, self.n_head, self.n_kv_head = layer, config.n_head, config.n_kv_head
        self.head_dim = config.n_embd // config.n_head
        self.c_q = nn.Linear(config.n_embd, self.n_head * self.head_dim, bias=False)
        self.c_k = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=False)
        self.c_v = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        B, T, C = x.shape
        q = self.c_q(x).view(B, T, self.n_head, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        k = self.c_k(x).view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        v = self.c_v(x).view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        q, k = norm(apply_rotary(q, cos, sin)), norm(apply_rotary(k, cos, sin))  # rotary first, then QK norm
        grouped = self.n_kv_head != self.n_head
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:
            mask = cache.mask(T)
            k, v = cache.insert(self.layer, k, v)
            y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask, enable_gqa=grouped)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # (B, H, T, D) -> (B, T, C)
