"""The loss and its gradients: supervised_cross_entropy against the plain formula and the kernels of others.

    python benchmarks/loss.py [--positions 256 1024] [--vocab_size 65536] [--rounds 5]

Hidden states (N, C) of N positions that all have a target, so that selecting them is no advantage here; head weight
(V, C), C = 256 as in a d4, float32. Forward and backward to both, in turn, medians. The ways with a softcap:

    nanolab        supervised_cross_entropy
    plain          plain_cross_entropy: logits of all positions, softcap, F.cross_entropy
    cce_compiled   Cut Cross-Entropy, impl="torch_compile": the plain formula, compiled
    cce            Cut Cross-Entropy's own kernels (Triton)
    liger          Liger's fused linear cross-entropy (Triton)

and without one, which is less work, since torch's function has none:

    plain, no cap          logits, F.cross_entropy
    torch, no cap          F.linear_cross_entropy (torch >= 2.13), reference path
    torch chunked, no cap  the same in chunks of 256 positions, gradients made on the way; with the chunks that torch
                           2.13 chooses by itself (LinearCrossEntropyOptions()) it was 12 times slower: not timed

A way that cannot run here is named with its reason. All must agree with the plain formula before any is timed. "above
rest" is the most memory held during a call, minus what was held before it. `pip install cut-cross-entropy
liger-kernel` (with triton, also where there is no GPU) makes theirs importable; the project does not depend on them.
"""

import argparse
import gc
import statistics
from collections.abc import Callable
from importlib import import_module

import torch
import torch.nn.functional as F
from common import MiB, in_turn, peak_bytes, print_table, reset_peak, resident_bytes, times_as_fast

from nanolab.batch import IGNORE_INDEX
from nanolab.gpt import LOGIT_SOFTCAP
from nanolab.loss import plain_cross_entropy, supervised_cross_entropy
from nanolab.runtime import describe_machine, pick_device

CHANNELS = 256  # C of a d4
TORCH_CHUNK = 256  # positions a chunk of torch's function: as fast as any that was tried
TOLERANCE = 1e-4  # relative to the largest value; float32 sums in other orders
COLUMNS = ("way", "positions", "ms", "MiB above rest", "nanolab is faster by")

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (N, C), (V, C), (N,) -> summed loss


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, nargs="+", default=[256, 1024], help="N")
    parser.add_argument("--vocab_size", type=int, default=65_536, help="V")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    print(f"{describe_machine(pick_device('cpu'))}; C {CHANNELS}, V {args.vocab_size:,}, float32, {args.rounds} rounds")
    capped, problems = usable_ways(capped_ways(), plain, args.vocab_size)
    uncapped, more_problems = usable_ways(uncapped_ways(), plain_uncapped, args.vocab_size)
    for name, problem in {**problems, **more_problems}.items():
        print(f"{name}: not measured ({problem})")
    print()
    print_table(COLUMNS, [line for N in args.positions for line in compare({**capped, **uncapped}, N, args)])


def plain(hidden: torch.Tensor, head_weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return plain_cross_entropy(hidden, head_weight, targets, LOGIT_SOFTCAP)


def plain_uncapped(hidden: torch.Tensor, head_weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, head_weight), targets, ignore_index=IGNORE_INDEX, reduction="sum")


def capped_ways() -> dict[str, Callable[[], Loss]]:
    """name -> what makes the loss function, and fails where its package is missing."""
    options = {"ignore_index": IGNORE_INDEX, "softcap": LOGIT_SOFTCAP, "reduction": "sum"}

    def cce(impl: str) -> Loss:
        function = import_module("cut_cross_entropy").linear_cross_entropy
        return lambda hidden, head_weight, targets: function(hidden, head_weight, targets, impl=impl, **options)

    def liger() -> Loss:
        function = import_module("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy
        return lambda hidden, head_weight, targets: function(hidden, head_weight, targets, **options)

    return {
        "nanolab": lambda: lambda *tensors: supervised_cross_entropy(*tensors, LOGIT_SOFTCAP),
        "plain": lambda: plain,
        "cce_compiled": lambda: cce("torch_compile"),
        "cce": lambda: cce("cce"),
        "liger": liger,
    }


def uncapped_ways() -> dict[str, Callable[[], Loss]]:
    """As `capped_ways`, without a softcap."""
    options = {"ignore_index": IGNORE_INDEX, "reduction": "sum"}

    def chunked() -> Loss:
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=TORCH_CHUNK)
        return lambda *tensors: F.linear_cross_entropy(*tensors, options=chunks, **options)

    return {
        "plain, no cap": lambda: plain_uncapped,
        "torch, no cap": lambda: lambda *tensors: F.linear_cross_entropy(*tensors, **options),
        "torch chunked, no cap": chunked,
    }


def usable_ways(
    makers: dict[str, Callable[[], Loss]], reference: Loss, vocab_size: int
) -> tuple[dict[str, Loss], dict[str, str]]:
    """The loss functions that run here, and why the others do not; AssertionError if one gives another result."""
    tensors = make_tensors(64, vocab_size)
    wanted = loss_and_gradients(reference, tensors)
    usable, problems = {}, {}
    for name, make in makers.items():
        try:
            found = loss_and_gradients(make(), tensors)
        except Exception as error:  # a missing package, no driver, no compiler: whatever it is, is the answer
            problems[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
            continue
        check_equal(name, found, wanted)
        usable[name] = make()
    return usable, problems


def make_tensors(N: int, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(N, CHANNELS, requires_grad=True)
    head_weight = torch.empty(vocab_size, CHANNELS).normal_(std=0.1).requires_grad_()
    return hidden, head_weight, torch.randint(vocab_size, (N,))


def loss_and_gradients(way: Loss, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The summed loss and the gradients of hidden states and head weight."""
    loss = way(*tensors)
    return [loss.detach(), *torch.autograd.grad(loss, tensors[:2])]


def check_equal(name: str, found: list[torch.Tensor], wanted: list[torch.Tensor]):
    for mine, reference in zip(found, wanted, strict=True):
        difference = ((mine - reference).abs().max() / reference.abs().max()).item()
        assert difference < TOLERANCE, f"{name} differs from the plain formula by {difference:.1e} of the largest value"


def compare(ways: dict[str, Loss], N: int, args) -> list[list[str]]:
    """The table's lines for N positions."""
    tensors = make_tensors(N, args.vocab_size)
    work = {name: lambda way=way: loss_and_gradients(way, tensors) for name, way in ways.items()}
    seconds = in_turn(work, args.rounds)
    return [
        [
            name,
            f"{N:,}",
            f"{statistics.median(seconds[name]) * 1e3:,.0f}",
            megabytes_above_rest(work[name]),
            f"{times_as_fast(seconds[name], seconds['nanolab']):.2f}",
        ]
        for name in ways
    ]


def megabytes_above_rest(work: Callable[[], object]) -> str:
    """The most that a call holds above what was held before it, in MiB; "" where the system cannot tell."""
    gc.collect()
    rest = resident_bytes()
    if not reset_peak():
        return ""
    work()
    return f"{(peak_bytes() - rest) / MiB:,.0f}"


if __name__ == "__main__":
    main()
