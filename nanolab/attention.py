"""Step 5, the part where positions look at each other: rotary positions, attention, and the key-value cache."""

import inspect
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from nanolab.runtime import KEEPS_GRAPHS

if TYPE_CHECKING:
    from nanolab.gpt import GPTConfig

varlen_attn = None
if torch.backends.cuda.is_built():  # elsewhere it is of no use, and the import brings the compiler: two seconds
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # a torch built without it; only CUDA asks for it, and then says so
        varlen_attn = None

ROTARY_BASE = 10_000
HALF_PRECISION = (torch.bfloat16, torch.float16)  # what varlen attention takes
_VARLEN_TAKES = inspect.signature(varlen_attn).parameters if varlen_attn is not None else ()
VARLEN_CAUSAL = {"is_causal": True} if "is_causal" in _VARLEN_TAKES else {"window_size": (-1, 0)}  # torch 2.10: by name
VARLEN_GROUPS = "enable_gqa" in _VARLEN_TAKES  # whether there may be fewer heads of keys than of queries


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

    Rows may hold different numbers of positions; what lies behind a row's last one is never looked at. `GPT.hidden` is
    given a window: the rows and positions of one call. (One token a row is `decode.Decoder`'s, which writes by itself.)

    Args:
        n_layer, shape: (rows, H, capacity, D) of the keys of one layer.
    """

    def __init__(self, n_layer: int, shape: tuple[int, int, int, int], device: torch.device | str, dtype: torch.dtype):
        # Zeros, not empty: a masked position has weight 0, and 0 times a leftover NaN would be NaN.
        self.keys = torch.zeros((n_layer, *shape), device=device, dtype=dtype)
        self.values = torch.zeros((n_layer, *shape), device=device, dtype=dtype)

    def window(self, first_row: int, num_rows: int, start: int, T: int) -> "CacheWindow":
        """For positions start ... start + T - 1 of some rows, which hold `start` positions each so far."""
        rows = slice(first_row, first_row + num_rows)
        return CacheWindow(self.keys[:, rows, :, : start + T], self.values[:, rows, :, : start + T], start)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        for kept in (self.keys, self.values):
            kept[:, target, :, :length] = kept[:, source, :, :length]


class CacheWindow:
    """The part of a cache that one call of the model writes and reads.

    Attributes: `positions` (1, T) of the new tokens; `sees`, the mask argument of scaled_dot_product_attention.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, start: int):
        self.keys, self.values, self.start = keys, values, start  # (n_layer, B, H, start + T, D), views
        end = keys.size(3)
        self.positions = torch.arange(start, end, device=keys.device)[None]
        self.sees = {"is_causal": True}
        if start > 0:  # each looks at everything before it and itself, which is no square triangle
            key = torch.arange(end, device=keys.device)
            self.sees = {"attn_mask": key <= self.positions[0][:, None]}  # (T, start + T)

    def insert(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values (B, H, T, D) behind what is there; return all in the window (B, H, start + T, D)."""
        for new, kept in ((k, self.keys[layer]), (v, self.values[layer])):
            kept[:, :, self.start :] = new
        return self.keys[layer], self.values[layer]


def document_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    """Causal attention inside each document of a flat row; no position looks across a border.

    Args:
        q: (1, H, T, D). k, v: (1, H or fewer, T, D). borders: (documents + 1,) slots where documents begin and end, the
            first 0 and the last T; empty documents are allowed.

    Returns (1, H, T, D). Four ways, one result: on CUDA in half precision `torch.nn.attention.varlen` reads the table
    of borders on the device; on MPS one `scaled_dot_product_attention` with a (T, T) mask; elsewhere one a document,
    which was measured faster (benchmarks/attention.py); and that loop as one opaque operator while torch.compile looks.
    Raises ValueError for more than one row.

    >>> x = torch.randn(1, 2, 5, 8)
    >>> y = document_attention(x, x, x, torch.tensor([0, 2, 5], dtype=torch.int32))
    >>> torch.equal(y[:, :, :1], x[:, :, :1]), torch.equal(y[:, :, 2], x[:, :, 2])      # the first of each sees itself
    (True, True)
    """
    if q.size(0) != 1:
        raise ValueError(f"Documents with borders stand in one flat row (1, T), got {q.size(0)} rows.")
    if q.device.type == "cuda" and q.dtype in HALF_PRECISION:
        return _varlen(q, k, v, borders)
    if q.device.type in KEEPS_GRAPHS:
        return _masked(q, k, v, borders)
    if torch.compiler.is_compiling():
        group = q.size(1) // k.size(1)
        return torch.ops.nanolab.document_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), borders
        )
    documents = zip(*(part.split(document_lengths(borders), dim=2) for part in (q, k, v)), strict=True)
    grouped = k.size(1) != q.size(1)
    return torch.cat([F.scaled_dot_product_attention(*d, is_causal=True, enable_gqa=grouped) for d in documents], dim=2)


def document_lengths(borders: torch.Tensor) -> list[int]:
    """The lengths of the documents between borders, empty ones left out.

    >>> document_lengths(torch.tensor([0, 2, 5, 5, 5]))
    [2, 3]
    """
    return [length for length in borders.diff().tolist() if length]


def _varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    """torch.nn.attention.varlen on (1, H, T, D); the longest document is not asked for, T is bound enough."""
    if varlen_attn is None:
        raise RuntimeError('batching="packed" on CUDA needs torch.nn.attention.varlen, which this torch lacks.')
    T, group, grouped = q.size(2), q.size(1) // k.size(1), {}
    if group > 1 and VARLEN_GROUPS:
        grouped = {"enable_gqa": True}
    elif group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    flat = (part.squeeze(0).transpose(0, 1) for part in (q, k, v))  # (T, H, D)
    return varlen_attn(*flat, borders, borders, T, T, **VARLEN_CAUSAL, **grouped).transpose(0, 1).unsqueeze(0)


def _masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    """All documents in one call. Metal keeps a graph of every shape it has met, and documents have all lengths."""
    slots = torch.arange(q.size(2), device=q.device, dtype=borders.dtype)  # (T,)
    document = torch.searchsorted(borders, slots, right=True)  # (T,) how many begin at a slot or before
    sees = (document[:, None] == document) & (slots[:, None] >= slots)  # (T, T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=sees, enable_gqa=k.size(1) != q.size(1))


@torch.library.custom_op("nanolab::document_attention", mutates_args=())
def _document_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor) -> torch.Tensor:
    """`document_attention` as one operator, so that the lengths of documents never reach the compiler."""
    y = torch.empty_like(q)
    for a, b in _spans(borders):
        part = (x[:, :, a:b] for x in (q, k, v))
        y[:, :, a:b] = F.scaled_dot_product_attention(*part, is_causal=True)
    return y


@torch.library.custom_op("nanolab::document_attention_backward", mutates_args=())
def _document_attention_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, by the formula of softmax attention, a document at a time."""
    grads = tuple(torch.empty_like(x) for x in (q, k, v))
    scale = q.size(-1) ** -0.5
    for a, b in _spans(borders):
        dy, qs, ks, vs = (x[:, :, a:b] for x in (grad, q, k, v))  # (1, H, L, D)
        seen = torch.ones(b - a, b - a, dtype=torch.bool, device=q.device).tril()
        scores = (qs @ ks.mT).float() * scale  # (1, H, L, L)
        shares = scores.masked_fill(~seen, float("-inf")).softmax(-1).to(q.dtype)
        dshares = dy @ vs.mT
        dscores = shares * (dshares - (shares * dshares).sum(-1, keepdim=True)) * scale
        for into, value in zip(grads, (dscores @ ks, dscores.mT @ qs, shares.mT @ dy), strict=True):
            into[:, :, a:b] = value
    return grads


def _spans(borders: torch.Tensor) -> list[tuple[int, int]]:
    table = borders.tolist()
    return [(a, b) for a, b in zip(table, table[1:], strict=False) if b > a]


@_document_attention.register_fake
def _(q, k, v, borders):
    return torch.empty_like(q)


@_document_attention_backward.register_fake
def _(grad, q, k, v, borders):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return *torch.ops.nanolab.document_attention_backward(grad, *ctx.saved_tensors), None


_document_attention.register_autograd(_backward, setup_context=_keep_for_backward)


class CausalSelfAttention(nn.Module):
    """Each position mixes the values of itself and those before it, weighted by how well keys match its query."""

    def __init__(self, config: "GPTConfig", layer: int):
        super().__init__()
        self.layer, self.n_head, self.n_kv_head = layer, config.n_head, config.n_kv_head
        self.head_dim = config.n_embd // config.n_head
        self.c_q = nn.Linear(config.n_embd, self.n_head * self.head_dim, bias=False)
        self.c_k = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=False)
        self.c_v = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        cache: CacheWindow | None = None,
        borders: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (B, T, C) to (B, T, C); with a `cache` also over what it holds, with `borders` inside documents only."""
        B, T, C = x.shape
        q = self.c_q(x).view(B, T, self.n_head, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        k = self.c_k(x).view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        v = self.c_v(x).view(B, T, self.n_kv_head, self.head_dim).transpose(1, 2)
        # Rotary first, then QK norm, which autocast makes float32 on CUDA (since torch 2.12), not on a processor.
        q, k = (norm(apply_rotary(part, cos, sin)).to(v.dtype) for part in (q, k))
        grouped = self.n_kv_head != self.n_head
        if borders is not None:
            y = document_attention(q, k, v, borders)
        elif cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        else:
            k, v = cache.insert(self.layer, k, v)
            y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), enable_gqa=grouped, **cache.sees)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # (B, H, T, D) -> (B, T, C)
