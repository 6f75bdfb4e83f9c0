"""Does training with bfloat16 products give the same losses as float32: same weights, same rows, 100 steps.

    python benchmarks/precision.py [--data toy] [--task mixture] [--steps 100] [--depth 2] [--conversations 4]

A fresh model is trained for --pretrain steps in float32, so that its losses are no mere guesses. Then two copies of it
are trained on the same further steps: weights, optimizer states and loss are float32 in both, the matrix products of
the model, the loss and Muon float32 in one and bfloat16 in the other. The losses (nats a supervised token) are compared
step by step, and in means of 10 steps. Learning rates are --init_lr_frac of the full ones (SFT's own is 0.02: then
weights hardly move) and fall to 0 over the steps.

A processor without bfloat16 instructions gives the same losses, but a hundred times slower than float32: the default
sizes are for such a one (2 to 3 minutes).
"""

import argparse
import time
from collections.abc import Sequence
from copy import deepcopy

import torch
from common import load_tokenizer, make_model, print_table
from trl_peer import TASKS

from nanolab.batch import Step, StepDataset
from nanolab.gpt import GPT
from nanolab.optim import linear_to_zero, make_optimizers
from nanolab.runtime import bfloat16_instructions, describe_machine, pick_device
from nanolab.train import train

WINDOW = 10  # steps of a mean
LARGEST_DIFFERENCE = 0.01  # what is asked for
PRINTED = 10  # lines of the table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", default="", help="folder of a saved one; without it a small one is trained")
    parser.add_argument("--task", choices=TASKS, default="mixture")
    parser.add_argument("--vocab_size", type=int, default=-1, help="of the model; -1 = the tokenizer's")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--conversations", type=int, default=4, help="a step")
    parser.add_argument("--pretrain", type=int, default=200, help="float32 steps before, at the full learning rates")
    parser.add_argument("--init_lr_frac", type=float, default=0.3, help="all learning rates times this")
    args = parser.parse_args()

    mixture = TASKS[args.task](args.data)
    tokenizer = load_tokenizer(args.tokenizer, mixture, args.vocab_size)
    vocab_size = tokenizer.vocab_size if args.vocab_size == -1 else args.vocab_size
    dataset = StepDataset(mixture, tokenizer, args.conversations, batching="packed")
    steps = [dataset[number] for number in range(args.pretrain + args.steps)]
    found = bfloat16_instructions() or "none: bfloat16 products are emulated"
    print(f"{describe_machine(pick_device('cpu'))}; bfloat16 instructions: {found}")
    print(f"{args.task} rows of {args.data}, {args.conversations} a step; d{args.depth}, vocabulary {vocab_size:,}")
    model = make_model(args.depth, vocab_size)
    losses(model, steps[: args.pretrain], "float32", init_lr_frac=1.0)
    after = steps[args.pretrain :]
    report(*(losses(deepcopy(model), after, dtype, args.init_lr_frac) for dtype in ("float32", "bfloat16")))


def losses(model: GPT, steps: Sequence[Step], dtype: str, init_lr_frac: float) -> torch.Tensor:
    """(steps,) losses of a training run that moves the model's weights."""
    optimizers = make_optimizers(model, 0.004, 0.2, 0.02, init_lr_frac=init_lr_frac, dtype=dtype)
    began = time.perf_counter()

    def schedule(step: int) -> tuple[float, None]:
        return linear_to_zero(step, len(steps)), None

    reports = list(train(model, optimizers, steps, schedule, dtype=dtype))
    print(f"{dtype}: {len(steps)} steps in {time.perf_counter() - began:.0f} s", flush=True)
    return torch.tensor([report.loss for report in reports], dtype=torch.float64)


def report(exact: torch.Tensor, rounded: torch.Tensor):
    means = [curve.unfold(0, WINDOW, 1).mean(1) for curve in (exact, rounded)]  # (steps - WINDOW + 1,)
    print()
    at = range(0, len(exact), max(1, len(exact) // PRINTED))
    columns = ("step", "float32 loss", "bfloat16 loss", "difference")
    by_step = (exact.tolist(), rounded.tolist(), relative(exact, rounded).tolist())
    print_table(columns, [[str(k), *(f"{curve[k]:.4f}" for curve in by_step[:2]), f"{by_step[2][k]:.3%}"] for k in at])
    print()
    curves = {"every step": relative(exact, rounded), f"means of {WINDOW} steps": relative(*means)}
    print_table(
        ("relative difference of", "mean", "largest"),
        [[name, f"{curve.mean().item():.3%}", f"{curve.max().item():.3%}"] for name, curve in curves.items()],
    )
    for name, curve in curves.items():
        verdict = "within" if curve.max() < LARGEST_DIFFERENCE else "NOT within"
        print(f"{name}: {verdict} {LARGEST_DIFFERENCE:.0%} of float32")


def relative(exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return (rounded - exact).abs() / exact


if __name__ == "__main__":
    main()
