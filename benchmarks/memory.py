"""How much memory a step takes: the estimate against the measure, and the seed's loop against ours.

    python benchmarks/memory.py [--data toy] [--tokenizer DIR] [--conversations 16] [--budgets 1024 2048 4096]

First table: nanolab.memory.estimate_memory of each layout's step (SFT's default budgets, and base training's rows of
8 x 512), beside the measured peak of such a step above what the process held before the model, for a small and the
real vocabulary. "tensors" is the part of the estimate that is exact; what the heap's gaps add differs between runs.

Second table: the seed's loop against ours, at the peak of one step.

Each measure has a process of its own, since what one leaves behind would count for the next: `seed` (4 padded rows,
float32 logits of all positions), `padded` (ours, the same rows), `packed_N` (ours, N slots a micro-batch). The process
is given the rows, makes model and optimizers, and does one optimizer step on 8 tokens, after which the optimizers have
their states; then comes the step that is measured: all micro-batches forward and backward, then the optimizers.
Resident memory, float32, GSM8K rows:

    at rest            weights and optimizer states (and the imports), before the step
    above rest         the most that the step held at a time, minus at rest: gradients, activations, logits
    above the imports  the same peak, minus what was held before the model: weights and optimizer states too

A third of the seed's is asked for. Weights, optimizer states and the gradients of all weights are the same in all ways,
and no layout makes them smaller. The peak is the kernel's (VmHWM, reset before the step); where it cannot be reset, it
is that of the whole process, and a line says so.
"""

import argparse
import gc
import multiprocessing
from collections.abc import Callable, Sequence

import torch
from common import (
    MiB,
    load_tokenizer,
    make_model,
    move_weights,
    peak_bytes,
    print_table,
    reset_peak,
    resident_bytes,
    seed_backward,
    sft_optimizers,
)

from nanolab.batch import Batch, Row, lay_out
from nanolab.gpt import GPTConfig
from nanolab.memory import Load, PeakMemory, estimate_memory
from nanolab.render import render_conversation
from nanolab.runtime import describe_machine, pick_device
from nanolab.tasks import GSM8K
from nanolab.train import backward

SEED_ROWS = 4  # rows of the seed's micro-batches
TINY_ROW = ([0] * 9, [1] * 9)  # ids and mask of a step that only makes the optimizers' states
SFT_BUDGET = 4_096  # slots, the default of device_batch_tokens
LAYOUTS = ("padded", "bucketed", "packed", "stream")
VOCABULARIES = (1_024, 65_536)  # of the first table
STREAM_SHAPE = (8, 512)  # base and mid training's default micro-batch; a step has two
NO_TENSORS = ("heap's gaps", "libraries")  # parts of an estimate
ESTIMATES = ("layout", "vocabulary", "peak at", "tensors", "estimate", "measured", "estimate / measured")
COLUMNS = ("way", "at rest", "above rest", "of the seed's", "above the imports", "of the seed's")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", default="", help="folder of a saved one; without it a small one is trained")
    parser.add_argument("--vocab_size", type=int, default=65_536, help="of the model; its tokenizer may be smaller")
    parser.add_argument(
        "--layouts", nargs="*", default=LAYOUTS, choices=LAYOUTS, help="of the first table; none: no table"
    )
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=16, help="of the step")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 2048, 4096], help="slots, packed")
    args = parser.parse_args()

    task = GSM8K("main", "train", data=args.data)
    tokenizer = load_tokenizer(args.tokenizer, task, args.vocab_size)
    rows = [render_conversation(task[i], tokenizer) for i in range(args.conversations)]
    print(
        f"{describe_machine(pick_device('cpu'))}; d{args.depth}, float32; a step of {args.conversations} conversations"
    )
    print(f"GSM8K rows of {args.data}; MiB\n")
    print_table(ESTIMATES, [estimate_line(kind, V, args, rows) for V in VOCABULARIES for kind in args.layouts])
    print(f"\nVocabulary {args.vocab_size:,}:\n")
    ways = ["seed", "padded", *(f"packed_{budget}" for budget in args.budgets)]
    report({way: in_child(measure, way, args, rows) for way in ways})


def in_child(work: Callable, *arguments) -> dict:
    """work(*arguments) in a fresh process: one that has imported this file and done nothing."""
    start = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, work, arguments))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        child.join()
        ended = f"ended with {child.exitcode} (negative: killed)"
        raise SystemExit(f"The process that measured {arguments[0]!r} {ended}.") from error
    finally:
        child.join()


def _send(sender, work: Callable, arguments: tuple):
    sender.send(work(*arguments))


def estimate_line(kind: str, vocab_size: int, args, rows: list[Row]) -> list[str]:
    """One line of the first table."""
    batches = layout_batches(kind, vocab_size, rows)
    config = GPTConfig.from_depth(args.depth, vocab_size)
    estimate = estimate_memory(config, [Load.of(batch) for batch in batches])
    measured = in_child(measure_peak, kind, vocab_size, args.depth, rows)["peak"]
    tensors = sum(size for name, size in estimate.parts.items() if name not in NO_TENSORS)
    sizes = [f"{size / MiB:,.0f}" for size in (tensors, estimate.total, measured)]
    return [kind, f"{vocab_size:,}", estimate.moment, *sizes, f"{estimate.total / measured:.2f}"]


def measure_peak(kind: str, vocab_size: int, depth: int, rows: list[Row]) -> dict:
    """The peak of a step in this process, above what it held before the model; the optimizers have their states."""
    batches, tiny = layout_batches(kind, vocab_size, rows), lay_out([TINY_ROW], pad_id=0)
    memory = PeakMemory(torch.device("cpu"))
    model = make_model(depth, vocab_size)
    optimizers = sft_optimizers(model)
    for step in (tiny, batches):
        gc.collect()
        memory.reset()
        backward(model, step)
        move_weights(model, optimizers)
    return {"peak": memory.peak_bytes()}


def layout_batches(kind: str, vocab_size: int, rows: Sequence[Row]) -> list[Batch]:
    """A step's micro-batches, their ids brought into the vocabulary."""
    if kind == "stream":
        ids = torch.zeros(STREAM_SHAPE, dtype=torch.long)
        return [Batch(ids, ids, real_tokens=ids.numel())] * 2
    small = [([i % vocab_size for i in ids], mask) for ids, mask in rows]
    return lay_out(small, kind, pad_id=0, device_batch_size=SEED_ROWS, device_batch_tokens=SFT_BUDGET)


def measure(way: str, args, rows: list[Row]) -> dict:
    """Bytes held before the model, at rest, and at the peak of the step; and whether the peak is the step's alone."""
    batches, tiny = lay_out_for(way, rows), lay_out([TINY_ROW], pad_id=0)
    backward_of = seed_backward if way == "seed" else backward
    imports = resident_bytes()
    model = make_model(args.depth, args.vocab_size)
    optimizers = sft_optimizers(model)
    for step in (tiny, batches):
        gc.collect()
        rest, alone = resident_bytes(), reset_peak()
        backward_of(model, step)
        move_weights(model, optimizers)
    return {"imports": imports, "rest": rest, "peak": peak_bytes(), "alone": alone}


def lay_out_for(way: str, rows: list[Row]) -> list[Batch]:
    """The step's micro-batches; "packed_N" has N slots each, the others the seed's rows."""
    batching, _, budget = way.partition("_")
    if batching == "packed":
        return lay_out(rows, "packed", pad_id=0, device_batch_tokens=int(budget))
    return lay_out(rows, "padded", pad_id=0, device_batch_size=SEED_ROWS)


def report(found: dict[str, dict]):
    seed = found["seed"]
    print_table(COLUMNS, [line(way, bytes_of, seed) for way, bytes_of in found.items()])
    if not all(bytes_of["alone"] for bytes_of in found.values()):
        print("\nThis system cannot reset the peak: it is that of the whole process, loading and first step included.")
    least = min(found, key=lambda way: found[way]["peak"])
    rest, imports = (above(found[least], level) / above(seed, level) for level in ("rest", "imports"))
    print(
        f"\n{least}: {rest:.2f} of the seed's above rest, {imports:.2f} above the imports; asked for on real rows: 0.33"
    )


def above(bytes_of: dict, level: str) -> int:
    return bytes_of["peak"] - bytes_of[level]


def line(way: str, bytes_of: dict, seed: dict) -> list[str]:
    cells = [way, f"{bytes_of['rest'] / MiB:,.0f}"]
    for level in ("rest", "imports"):
        cells.append(f"{above(bytes_of, level) / MiB:,.0f}")
        cells.append(f"{above(bytes_of, level) / above(seed, level):.2f}")
    return cells


if __name__ == "__main__":
    main()
