"""Step 6: targets become a loss, computed only where something is learned.

The loss never sees the model, only its last hidden states and the head's weight. It first selects the supervised
positions and only then projects them to the vocabulary: at depth 4 with 65,536 tokens the head is most of the work, and
padding and masked tokens would be projected for nothing. The projection runs over a chunk of positions at a time, so
the (tokens, vocabulary) array of a batch never exists, and over a tile of the vocabulary at a time, so that the
element by element work finds the logits still in the processor's cache.

With x a raw logit, c the softcap and s = sigmoid(2x / c), one sigmoid gives everything the chunk needs:

    y = c tanh(x / c) = c (2s - 1)          the soft-capped logit, bounded: exp(y) needs no maximum subtracted
    loss = log sum exp(2cs) - 2cs[target]   (the constant c cancels)
    dy/dx = 1 - tanh(x / c)^2 = 4s (1 - s)  the slope of the softcap
    dloss/dx = (softmax - onehot) 4s (1 - s)

The gradients of a chunk are made right after its logits, while they exist; the backward pass only scales them. Source
of that order: Liger Kernel, arXiv:2410.10989; of never holding the logits: Cut Cross-Entropy, arXiv:2411.09009.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nanolab.batch import IGNORE_INDEX
from nanolab.runtime import KEEPS_GRAPHS

CHUNK_LOGITS = 2**25  # logits of a chunk, in float32: 128 MiB, enough positions for products at nearly full speed
LANES = 32  # positions of a chunk come in multiples of this
TILE = {"cpu": 2_048}  # vocabulary entries at a time; devices not named take the whole vocabulary at once
LARGEST_SOFTCAP = 40.0  # exp(2 * 40) times a vocabulary still fits into float32


def softcapped(logits: torch.Tensor, softcap: float) -> torch.Tensor:
    """Squeeze logits smoothly into (-softcap, softcap). Source: Gemma 2, arXiv:2408.00118.

    >>> softcapped(torch.tensor([0.0, 1000.0]), 15.0).tolist()
    [0.0, 15.0]
    """
    return softcap * torch.tanh(logits / softcap)


def plain_cross_entropy(
    hidden: torch.Tensor, head_weight: torch.Tensor, targets: torch.Tensor, softcap: float
) -> torch.Tensor:
    """The same number as `supervised_cross_entropy` by its definition: logits of all positions, then ignore_index.

    Shapes and units as there. It holds the whole (B * T, V) array, some of it several times; here for comparison.
    """
    logits = softcapped(F.linear(hidden, head_weight).float(), softcap)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def reduce_tile(s: torch.Tensor, scale: float, exps: torch.Tensor, with_slopes: bool) -> torch.Tensor:
    """The element by element work on one tile, as a function: what compiled.py makes a kernel of.

    Args:
        s: (width, n) sigmoids; with_slopes, overwritten by exp(scale * s) s (1 - s). exps: (width, n) scratch.

    Returns: (n,) sums of exp(scale * s) over the tile.

    >>> reduce_tile(torch.zeros(3, 1), 30.0, torch.empty(3, 1), with_slopes=False)
    tensor([3.])
    """
    total = torch.mul(s, scale, out=exps).exp_().sum(0)
    if with_slopes:
        torch.addcmul(s, s, s, value=-1, out=s).mul_(exps)
    return total


def supervised_cross_entropy(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    targets: torch.Tensor,
    softcap: float,
    reduce_tile: Callable = reduce_tile,
) -> torch.Tensor:
    """The summed cross-entropy, in nats, over the positions that have a target.

    Args:
        hidden: (B, T, C) last hidden states. head_weight: (V, C). targets: (B, T) ids, or IGNORE_INDEX.
        softcap: the logits' bound, at most 40. reduce_tile: a compiled form of the function of that name.

    Returns: a float32 scalar; 0, with zero gradient, when no position has a target. Divide by the number of supervised
    tokens of the whole step for the mean. Differentiable once. Products run in autocast's dtype where autocast is on;
    everything else, and the sum of the head's gradient, is float32.

    >>> loss = supervised_cross_entropy(torch.zeros(1, 2, 4), torch.zeros(8, 4), torch.tensor([[3, -1]]), 15.0)
    >>> round(loss.exp().item(), 3)
    8.0
    """
    if not 0 < softcap <= LARGEST_SOFTCAP:
        raise ValueError(f"softcap must be above 0 and at most {LARGEST_SOFTCAP}, got {softcap}.")
    learned = targets != IGNORE_INDEX  # (B, T)
    device = hidden.device.type
    if device in KEEPS_GRAPHS:
        selected, wanted, counted = _selected_in_few_sizes(hidden, targets, learned)
    else:
        selected, wanted, counted = hidden[learned], targets[learned], None  # (N, C), (N,): N supervised positions
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    _check_targets(wanted, len(head_weight))
    how = _How(softcap, dtype, reduce_tile)
    if torch.is_grad_enabled() and (selected.requires_grad or head_weight.requires_grad):
        return _ChunkedCrossEntropy.apply(selected, head_weight, wanted, counted, how)
    loss = torch.zeros((), device=hidden.device)
    with torch.autocast(device, enabled=False):
        head_weight = _for_products(head_weight, dtype)
        for positions in _chunks(len(selected), len(head_weight)):
            loss += _summed(_Chunk(selected[positions], head_weight, wanted[positions], how), positions, counted)
    return loss


def _for_products(head_weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The head in the products' dtype where chunks take it whole: once for all of them. Else tiles are converted."""
    whole = TILE.get(head_weight.device.type, len(head_weight)) >= len(head_weight)
    return head_weight.to(dtype) if whole else head_weight


def _selected_in_few_sizes(
    hidden: torch.Tensor, targets: torch.Tensor, learned: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Supervised positions and, behind them, hidden states of zeros with target 0, which have no gradient.

    (K, C), (K,) and (K,): which of them count. K is one of a few sizes, so that every step after this has few shapes.
    """
    flat = learned.flatten()
    K = min(in_few_sizes(int(flat.sum())), len(flat))
    first = flat.int().argsort(descending=True)[:K]  # in any order: what is learned before what is not
    counted = flat[first]
    # where, not a product: what is not learned may hold anything
    selected = torch.where(counted[:, None], hidden.flatten(0, -2)[first], 0.0)
    return selected, torch.where(counted, targets.flatten()[first], 0), counted


def in_few_sizes(N: int) -> int:
    """N rounded up, by less than a quarter or to a multiple of LANES: four sizes between a power of two and the next.

    >>> [in_few_sizes(N) for N in (0, 1, 33, 500, 1000, 1030)]
    [0, 32, 64, 512, 1024, 1280]
    """
    part = max(LANES, 2 ** max(0, (N - 1).bit_length() - 3))
    return -(-N // part) * part


def _summed(chunk: "_Chunk", positions: slice, counted: torch.Tensor | None) -> torch.Tensor:
    """The summed loss of a chunk, without positions that do not count."""
    return chunk.losses().sum() if counted is None else (chunk.losses() * counted[positions]).sum()


def _check_targets(wanted: torch.Tensor, vocab_size: int):
    """Raise for a target that is not an id; not on accelerators, which would have to wait, and check by themselves."""
    if wanted.device.type == "cpu" and len(wanted) and (wanted.min() < 0 or wanted.max() >= vocab_size):
        raise IndexError(
            f"A target must be {IGNORE_INDEX} or an id of the vocabulary, 0 ... {vocab_size - 1}; "
            f"these reach from {wanted.min()} to {wanted.max()}."
        )


class _How(NamedTuple):
    softcap: float
    dtype: torch.dtype  # of the products
    reduce_tile: Callable


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward makes the loss and, while the logits are there, the gradients of (N, C) hidden and (V, C) weight."""

    @staticmethod
    def forward(ctx, hidden, head_weight, targets, counted, how):
        loss = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        chunks = _chunks(len(hidden), len(head_weight))
        grad_weight = torch.empty_like(head_weight) if chunks else torch.zeros_like(head_weight)
        longest = chunks[0].stop if chunks else 0
        slopes = hidden.new_empty(longest * len(head_weight), dtype=torch.float32)  # one for all chunks
        with torch.autocast(hidden.device.type, enabled=False):
            head_weight = _for_products(head_weight, how.dtype)
            for number, positions in enumerate(chunks):
                chunk = _Chunk(hidden[positions], head_weight, targets[positions], how, slopes)
                loss += _summed(chunk, positions, counted)
                grad_hidden[positions] = chunk.add_gradients(grad_weight, first=number == 0)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_loss, grad_weight.mul_(grad_loss), None, None, None


def _chunks(N: int, vocab_size: int) -> list[slice]:
    """N positions in slices of at most about CHUNK_LOGITS logits: as few as possible and about equally long.

    Lengths are multiples of LANES but for the last: products with an odd side are slower.

    >>> _chunks(600, 2**16)
    [slice(0, 320, None), slice(320, 600, None)]
    """
    most = max(1, CHUNK_LOGITS // vocab_size)
    length = -(-N // max(1, -(-N // most)))
    length = max(LANES, -(-length // LANES) * LANES)
    return [slice(start, min(start + length, N)) for start in range(0, N, length)]


class _Chunk:
    """The logits of n positions, tile by tile, reduced to what loss and gradients need.

    After construction: `total` (n,) is the sum of exp(2cs), `wanted` (n,) the target's s, and the flat `slopes`, if
    given, holds exp(2cs) s (1 - s), the unscaled gradient. Tiles are (width, n), vocabulary first: the product that
    makes them is a quarter faster that way round. Each is contiguous: a row stride as large as the vocabulary would
    make products three times slower.
    """

    def __init__(self, hidden, head_weight, targets, how: _How, slopes: torch.Tensor | None = None):
        self.hidden, self.head_weight, self.targets, self.how, self.slopes = hidden, head_weight, targets, how, slopes
        n, self.scale = len(hidden), 2 * how.softcap
        self.width = min(TILE.get(hidden.device.type, len(head_weight)), len(head_weight))
        self.total = hidden.new_zeros(n, dtype=torch.float32)
        scratch = hidden.new_empty(1 if slopes is not None else 2, self.width, n, dtype=torch.float32)
        doubled = (hidden * (2 / how.softcap)).to(how.dtype).t()  # (C, n), so that the product is 2x / c
        picked = []
        for start, weight in self._tiles():
            exps, spare = scratch[0, : len(weight)], scratch[-1, : len(weight)]  # (width, n)
            s = spare if slopes is None else self._slopes_from(start, len(weight))
            _product(weight, doubled, out=s).sigmoid_()
            inside = (targets - start).clamp(0, len(weight) - 1)[None]  # only the target's own tile will count
            picked.append(s.gather(0, inside)[0])
            self.total += how.reduce_tile(s, self.scale, exps, slopes is not None)
        self.wanted = torch.stack(picked).gather(0, (targets // self.width)[None])[0]

    def _tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, len(self.head_weight), self.width):
            yield start, self.head_weight[start : start + self.width].to(self.how.dtype)  # (width, C)

    def _slopes_from(self, start: int, width: int) -> torch.Tensor:
        n = len(self.hidden)
        return self.slopes[n * start : n * (start + width)].view(width, n)

    def losses(self) -> torch.Tensor:
        """(n,) losses of the positions, in nats."""
        return self.total.log() - self.scale * self.wanted

    def add_gradients(self, grad_weight: torch.Tensor, first: bool) -> torch.Tensor:
        """Add the chunk's gradient to grad_weight (V, C), or fill it if `first`; return that of hidden (n, C)."""
        self._subtract_onehot()
        unscale = (4 / self.total)[:, None]
        scaled = (self.hidden * unscale).to(self.how.dtype)
        grad_hidden = torch.zeros_like(self.hidden, dtype=torch.float32)
        for start, weight in self._tiles():
            slopes = self._slopes_from(start, len(weight)).to(self.how.dtype)  # (width, n)
            rows = grad_weight[start : start + len(weight)]
            if self.how.dtype == torch.float32:
                grad_hidden.addmm_(slopes.t(), weight)
                rows.addmm_(slopes, scaled, beta=0 if first else 1)
            else:
                grad_hidden += slopes.t() @ weight
                rows.copy_(slopes @ scaled) if first else rows.add_(slopes @ scaled)
        return (grad_hidden * unscale).to(self.hidden.dtype)

    def _subtract_onehot(self):
        """softmax becomes softmax - onehot, both times `total` and the softcap's slope."""
        n = len(self.hidden)
        flat = self.targets * n + torch.arange(n, device=self.targets.device)
        self.slopes.index_add_(0, flat, self.total * self.wanted * (1 - self.wanted), alpha=-1)


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """a @ b in the dtype of a and b, written to float32 `out`."""
    return torch.mm(a, b, out=out) if a.dtype == torch.float32 else out.copy_(a @ b)
