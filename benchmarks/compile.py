"""torch.compile on the SFT mixture: how long the warm-up takes, what compiles after it, and whether it wins.

    python benchmarks/compile.py [--data toy] [--tokenizer DIR] [--steps 200] [--depth 2] [--free_steps 1]
                                 [--device_type cpu]

Packed rows in static shapes: the longest conversation of the mixture is found first, so all shapes are known, and
compiled before the first step. Then --steps steps of 32 conversations (forward, backward, optimizers); every --every-th
of them also eagerly, in turn, on packed rows without static shapes, which is what one would choose without a compiler.
Recompilations are the graphs that torch made after the warm-up.

"free widths" is what happens without static shapes: the first --free_steps steps in padded rows as they come, where
each new width compiles again (not more than 7 steps: torch gives up after 64 shapes).

torch keeps kernels on disk, so a second run warms up faster; TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 gives the first one's
time again.
"""

import argparse
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from common import (
    bench_device,
    load_tokenizer,
    make_model,
    move_weights,
    print_table,
    seconds_of,
    sft_optimizers,
    times_as_fast,
)
from trl_peer import TASKS

from nanolab.batch import Step, StepDataset
from nanolab.compiled import CompiledGPT, compiler_problem
from nanolab.gpt import GPT
from nanolab.layout import possible_shapes
from nanolab.runtime import describe_machine
from nanolab.train import backward

EXAMPLES_PER_STEP = 32
SEED_ROWS = 4  # rows of the seed's micro-batches


def main():
    args = arguments()
    device = bench_device(args.device_type)
    if problem := compiler_problem(device):
        raise SystemExit(f"torch.compile does not work here: {problem}")
    mixture = TASKS[args.task](args.data)
    tokenizer = load_tokenizer(args.tokenizer, mixture, args.vocab_size)
    steps = partial(StepDataset, mixture, tokenizer, EXAMPLES_PER_STEP, SEED_ROWS)
    packed = partial(steps, batching="packed", device_batch_tokens=args.device_batch_tokens)
    vocab_size = tokenizer.vocab_size if args.vocab_size == -1 else args.vocab_size
    model = make_model(args.depth, vocab_size, device=device)
    print(f"{describe_machine(device)}; d{args.depth}, vocabulary {model.config.vocab_size:,}, float32")
    print(f"{args.task} rows of {args.data}, {EXAMPLES_PER_STEP} a step, {args.steps} steps")
    static(model, packed(static_shapes=True), packed(), args)
    if args.free_steps:
        free(model, steps(batching="padded"), args.free_steps)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", default="", help="folder of a saved one; without it a small one is trained")
    parser.add_argument("--task", choices=TASKS, default="mixture")
    parser.add_argument("--vocab_size", type=int, default=-1, help="of the model; -1 = the tokenizer's")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="steps from one that is also done eagerly to the next")
    parser.add_argument("--free_steps", type=int, default=1, choices=range(8), help="with free widths; 0 = none")
    parser.add_argument("--device_batch_tokens", type=int, default=2_048)
    parser.add_argument("--device_type", choices=("", "cpu", "cuda"), default="cpu", help='"": CUDA if there is one')
    return parser.parse_args()


def static(model: GPT, static_steps: StepDataset, eager_steps: StepDataset, args):
    """Warm up, train, count; print what was found."""
    shapes = possible_shapes("packed", args.device_batch_tokens, static_steps.longest())
    compiled = CompiledGPT(model)
    compiled.warm_up(shapes, "packed", "float32", most_documents=static_steps.num_examples)
    optimizers = sft_optimizers(model)
    take_step(model, model, optimizers, eager_steps[0])  # the optimizers' states are made here
    seconds, pairs, seen = [], [], Counter()
    for number in range(args.steps):
        step = static_steps[number]
        seen.update(tuple(batch.inputs.shape) for batch in step.batches)
        seconds.append(take_step(compiled, model, optimizers, step))
        if number % args.every == 0:
            pairs.append((take_step(model, model, optimizers, eager_steps[number]), seconds[-1]))
    report(compiled, seconds, pairs, seen)


def take_step(forward: Callable, model: GPT, optimizers: Sequence[torch.optim.Optimizer], step: Step) -> float:
    """Seconds of one optimizer step, called through `forward`: the model or a compiled form of it."""

    def work():
        backward(forward, step.batches, device=model.device)
        move_weights(model, optimizers)

    return seconds_of(work, model.device)


def report(compiled: CompiledGPT, seconds: list[float], pairs: list[tuple[float, float]], seen: Counter):
    eager, at_the_same_steps = zip(*pairs, strict=True)
    saved = statistics.median(eager) - statistics.median(at_the_same_steps)
    print(
        f"shapes of the {len(seconds)} steps: {', '.join(f'{B} x {T} ({n}x)' for (B, T), n in sorted(seen.items()))}\n"
    )
    rows = {
        "shapes compiled": len(compiled.warm_shapes),
        "warm-up, s": f"{compiled.warm_seconds:.0f}",
        f"recompilations in {len(seconds)} steps": compiled.recompilations,
        "s/step compiled, all steps": f"{statistics.median(seconds):.3f}",
        f"s/step compiled, {len(pairs)} steps in turn": f"{statistics.median(at_the_same_steps):.3f}",
        f"s/step eager, {len(pairs)} steps in turn": f"{statistics.median(eager):.3f}",
        "compiled is faster by": f"{times_as_fast(eager, at_the_same_steps):.2f}",
        "steps until the warm-up is earned back": f"{compiled.warm_seconds / saved:,.0f}" if saved > 0 else "never",
    }
    print_table(("packed, static shapes", "value"), [[name, str(value)] for name, value in rows.items()])


def free(model: GPT, steps: StepDataset, count: int):
    """The same without static shapes, from nothing compiled."""
    torch._dynamo.reset()
    compiled, optimizers = CompiledGPT(model), sft_optimizers(model)
    seconds = [take_step(compiled, model, optimizers, steps[number]) for number in range(count)]
    each = ", ".join(f"{spent:.1f}" for spent in seconds)
    print(f"\nfree widths, {count} steps: {compiled.recompilations} graphs compiled, {each} s")


if __name__ == "__main__":
    main()
