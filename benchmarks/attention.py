"""Attention inside the documents of a flat row: which way is the fastest on this machine.

    python benchmarks/attention.py [--rounds 7]

    documents   document_attention, eagerly: one scaled_dot_product_attention a document
    operator    the same as one opaque operator, for torch.compile; its backward pass is the formula written out
    mask        one call with a boolean (T, T) mask
    padded      one call on right-padded rows (documents, longest), laid out and taken back on the way

Forward and backward of one layer of a d4, 2 heads of 128, float32; random lengths around the mean, 0.3 to 1.7 times
it. The mask and the padded rows' indices are made before the clock starts: a model would make them once for all its
layers. All ways must agree before any is timed. Measured in turn; medians.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from common import print_table, times_as_fast

from nanolab.attention import document_attention
from nanolab.batch import positions_in_documents
from nanolab.runtime import describe_machine, pick_device

HEADS, HEAD_DIM = 2, 128
SIZES = ((4096, 39), (2048, 170), (4096, 170), (4096, 1000))  # (T, mean length of a document)
TOLERANCE = 1e-5
COLUMNS = ("T, mean length (documents)", "way", "forward ms", "backward ms", "documents is faster by")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    print(f"{describe_machine(pick_device('cpu'))}; {HEADS} heads of {HEAD_DIM}, float32, {args.rounds} rounds\n")
    print_table(COLUMNS, [line for T, mean in SIZES for line in compare(T, mean, args.rounds)])


def compare(T: int, mean: int, rounds: int) -> list[list[str]]:
    """The table's lines for one size."""
    torch.manual_seed(0)
    borders = random_borders(T, mean)
    qkv = [torch.randn(1, T, HEADS, HEAD_DIM).transpose(1, 2).requires_grad_() for _ in range(3)]  # (1, H, T, D)
    grad = torch.randn(1, HEADS, T, HEAD_DIM)
    ways = ways_for(borders, T)
    check_equal(ways, qkv, grad)
    forward, backward = ({name: [] for name in ways} for _ in range(2))
    for _ in range(rounds):
        for name, way in ways.items():
            seconds = timed(way, qkv, grad)
            forward[name].append(seconds[0])
            backward[name].append(seconds[1])
    both = {name: [a + b for a, b in zip(forward[name], backward[name], strict=True)] for name in ways}
    size = f"{T:,}, {mean:,} ({len(borders) - 1})"
    return [
        [
            size,
            name,
            *(f"{statistics.median(passes[name]) * 1e3:.1f}" for passes in (forward, backward)),
            f"{times_as_fast(both[name], both['documents']):.2f}",
        ]
        for name in ways
    ]


def timed(way: Callable, qkv: Sequence[torch.Tensor], grad: torch.Tensor) -> tuple[float, float]:
    """Seconds of (forward, backward)."""
    began = time.perf_counter()
    y = way(*qkv)
    between = time.perf_counter()
    torch.autograd.grad(y, qkv, grad)
    return between - began, time.perf_counter() - between


def random_borders(T: int, mean: int) -> torch.Tensor:
    """(documents + 1,) borders of documents of 0.3 to 1.7 times the mean length; the last takes what is left."""
    lengths, random_lengths = [], random.Random(0)
    while (left := T - sum(lengths)) > 0:
        lengths.append(min(left, max(1, round(mean * random_lengths.uniform(0.3, 1.7)))))
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def ways_for(borders: torch.Tensor, T: int) -> dict[str, Callable]:
    """name -> function of q, k, v (1, H, T, D)."""
    return {
        "documents": lambda q, k, v: document_attention(q, k, v, borders),
        "operator": lambda q, k, v: torch.ops.nanolab.document_attention(q, k, v, borders),
        "mask": with_mask(borders, T),
        "padded": with_padding(borders, T),
    }


def with_mask(borders: torch.Tensor, T: int) -> Callable:
    document = torch.searchsorted(borders, torch.arange(T, dtype=borders.dtype), right=True)  # (T,)
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    mask = causal & (document[:, None] == document)  # (T, T)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def with_padding(borders: torch.Tensor, T: int) -> Callable:
    lengths = borders.diff().long()
    n, width = len(lengths), int(lengths.max())
    rows = torch.arange(n).repeat_interleave(lengths)  # (T,)
    places = rows * width + positions_in_documents(borders, T)[0]  # (T,) where each slot goes

    def attention(q, k, v):
        padded = (lay(x) for x in (q, k, v))
        y = F.scaled_dot_product_attention(*padded, is_causal=True)  # (n, H, width, D)
        return y.transpose(1, 2).reshape(n * width, HEADS, HEAD_DIM)[places].transpose(0, 1)[None]

    def lay(x):
        rows = x.new_zeros(n * width, HEADS, HEAD_DIM).index_copy(0, places, x[0].transpose(0, 1))
        return rows.view(n, width, HEADS, HEAD_DIM).transpose(1, 2)

    return attention


def check_equal(ways: dict[str, Callable], qkv: Sequence[torch.Tensor], grad: torch.Tensor):
    """Raise AssertionError if a way gives other values or gradients than the first; this also warms up."""
    results = {}
    for name, way in ways.items():
        y = way(*qkv)
        results[name] = [y.detach(), *torch.autograd.grad(y, qkv, grad)]
    for name, tensors in results.items():
        for ours, theirs in zip(results["documents"], tensors, strict=True):
            torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")


if __name__ == "__main__":
    main()
