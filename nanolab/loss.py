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

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nanolab.batch import IGNORE_INDEX

CHUNK_LOGITS = 2**24  # logits of a chunk, in float32: 64 MiB, enough positions for products at full speed
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


def supervised_cross_entropy(
    hidden: torch.Tensor, head_weight: torch.Tensor, targets: torch.Tensor, softcap: float
) -> torch.Tensor:
    """The summed cross-entropy, in nats, over the positions that have a target.

    Args:
        hidden: (B, T, C) last hidden states. head_weight: (V, C). targets: (B, T) ids, or IGNORE_INDEX.
        softcap: the logits' bound, at most 40. Products run in autocast's dtype where it is on, everything else, and
            the gradient of the head, in float32.

    Returns: a float32 scalar; 0, with zero gradient, when no position has a target. Divide by the number of supervised
    tokens of the whole step for the mean. Differentiable once.

    >>> loss = supervised_cross_entropy(torch.zeros(1, 2, 4), torch.zeros(8, 4), torch.tensor([[3, -1]]), 15.0)
    >>> round(loss.exp().item(), 3)
    8.0
    """
    if not 0 < softcap <= LARGEST_SOFTCAP:
        raise ValueError(f"softcap must be above 0 and at most {LARGEST_SOFTCAP}, got {softcap}.")
    learned = targets != IGNORE_INDEX  # (B, T)
    selected, wanted = hidden[learned], targets[learned]  # (N, C), (N,): N supervised positions
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if torch.is_grad_enabled() and (selected.requires_grad or head_weight.requires_grad):
        return _ChunkedCrossEntropy.apply(selected, head_weight, wanted, softcap, dtype)
    loss = torch.zeros((), device=hidden.device)
    with torch.autocast(device, enabled=False):
        for positions in _chunks(selected, head_weight):
            loss += _Chunk(selected[positions], head_weight, wanted[positions], softcap, dtype).loss()
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Forward makes the loss and, while the logits are there, the gradients of (N, C) hidden and (V, C) weight."""

    @staticmethod
    def forward(ctx, hidden, head_weight, targets, softcap, dtype):
        loss = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        chunks = _chunks(hidden, head_weight)
        grad_weight = torch.empty_like(head_weight) if chunks else torch.zeros_like(head_weight)
        slopes = _buffer(hidden, chunks, len(head_weight))  # one for all chunks
        with torch.autocast(hidden.device.type, enabled=False):
            for number, positions in enumerate(chunks):
                chunk = _Chunk(hidden[positions], head_weight, targets[positions], softcap, dtype, slopes)
                loss += chunk.loss()
                grad_hidden[positions] = chunk.add_gradients(grad_weight, first=number == 0)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_loss, grad_weight.mul_(grad_loss), None, None, None


def _chunks(hidden: torch.Tensor, head_weight: torch.Tensor) -> list[slice]:
    """Slices of (N, C) hidden, of nearly equal length, whose logits are at most CHUNK_LOGITS."""
    N, most = len(hidden), max(1, CHUNK_LOGITS // len(head_weight))
    count = -(-N // most)
    return [slice(N * k // count, N * (k + 1) // count) for k in range(count)]


def _buffer(hidden: torch.Tensor, chunks: list[slice], vocab_size: int) -> torch.Tensor:
    longest = max((chunk.stop - chunk.start for chunk in chunks), default=0)
    return hidden.new_empty(longest * vocab_size, dtype=torch.float32)


class _Chunk:
    """The logits of n positions, tile by tile, reduced to what loss and gradients need.

    After construction: `total` (n,) is the sum of exp(2cs), `wanted` (n,) the target's s, and the flat `slopes`, if
    given, holds exp(2cs) s (1 - s), the unscaled gradient: one tile (n, width) after another, since a row stride as large as
    the vocabulary makes products three times slower.
    """

    def __init__(self, hidden, head_weight, targets, softcap, dtype, slopes: torch.Tensor | None = None):
        n, V = len(hidden), len(head_weight)
        self.hidden, self.head_weight, self.targets, self.dtype = hidden, head_weight, targets, dtype
        self.scale, self.width, self.slopes = 2 * softcap, min(TILE.get(hidden.device.type, V), V), slopes
        self.total = hidden.new_zeros(n, dtype=torch.float32)
        scratch = hidden.new_empty(2 if slopes is None else 1, n * self.width, dtype=torch.float32)
        doubled = (hidden * (2 / softcap)).to(dtype)  # so that the product is 2x / c
        picked = []
        for start, weight in self._tiles():
            exps = scratch[0, : n * len(weight)].view(n, -1)  # (n, width)
            s = self._slopes_of(start, len(weight)) if slopes is not None else scratch[1, : exps.numel()].view(n, -1)
            _product(doubled, weight.t(), out=s)
            s.sigmoid_()
            inside = (targets - start).clamp(0, len(weight) - 1)[:, None]  # only the target's own tile will count
            picked.append(s.gather(1, inside)[:, 0])
            self.total += torch.mul(s, self.scale, out=exps).exp_().sum(1)
            if slopes is not None:
                torch.addcmul(s, s, s, value=-1, out=s).mul_(exps)
        self.wanted = torch.stack(picked).gather(0, (targets // self.width)[None])[0]

    def _tiles(self):
        for start in range(0, len(self.head_weight), self.width):
            yield start, self.head_weight[start : start + self.width].to(self.dtype)  # (width, C)

    def _slopes_of(self, start: int, width: int) -> torch.Tensor:
        n = len(self.hidden)
        return self.slopes[n * start : n * (start + width)].view(n, width)

    def loss(self) -> torch.Tensor:
        """The summed loss of the chunk, in nats."""
        return (self.total.log() - self.scale * self.wanted).sum()

    def add_gradients(self, grad_weight: torch.Tensor, first: bool) -> torch.Tensor:
        """Add the chunk's gradient to grad_weight (V, C), or fill it if `first`; return that of hidden (n, C)."""
        self._subtract_onehot()
        unscale = (4 / self.total)[:, None]
        scaled = (self.hidden * unscale).to(self.dtype)
        grad_hidden = torch.zeros_like(self.hidden, dtype=torch.float32)
        for start, weight in self._tiles():
            slopes = self._slopes_of(start, len(weight)).to(self.dtype)  # (n, width)
            rows = grad_weight[start : start + len(weight)]
            if self.dtype == torch.float32:
                grad_hidden.addmm_(slopes, weight)
                rows.addmm_(slopes.t(), scaled, beta=0 if first else 1)
            else:
                grad_hidden += slopes @ weight
                rows.copy_(slopes.t() @ scaled) if first else rows.add_(slopes.t() @ scaled)
        return (grad_hidden * unscale).to(self.hidden.dtype)

    def _subtract_onehot(self):
        """softmax becomes softmax - onehot, both times `total` and the softcap's slope."""
        n, V = len(self.hidden), len(self.head_weight)
        start = self.targets // self.width * self.width
        width = (V - start).clamp(max=self.width)
        flat = n * start + torch.arange(n, device=start.device) * width + self.targets - start
        self.slopes.index_add_(0, flat, self.total * self.wanted * (1 - self.wanted), alpha=-1)


def _product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor):
    """a @ b into float32 `out`, in the dtype of a and b."""
    if a.dtype == torch.float32:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)
