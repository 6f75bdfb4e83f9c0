"""How much memory an SFT step takes: the seed's loop against ours, at the peak of one step of 16 conversations.

    python benchmarks/memory.py [--data toy] [--tokenizer DIR] [--conversations 16] [--budgets 1024 2048 4096]

Each way has a process of its own, since what one leaves behind would count for the next: `seed` (4 padded rows, float32
logits of all positions), `padded` (ours, the same rows), `packed_N` (ours, N slots a micro-batch). The process is given
the rows, makes model and optimizers, and does one optimizer step on 8 tokens, after which the optimizers have their
states; then comes the step that is measured: all micro-batches forward and backward, then the optimizers. Resident
memory, float32, GSM8K rows:

    at rest            weights and optimizer states (and the imports), before the step
    above rest         the most that the step held at a time, minus at rest: gradients, activations, logits
    above the imports  the same peak, minus what was held before the model: weights and optimizer states too

A third of the seed's is asked for. Weights, optimizer states and the gradients of all weights are the same in all ways,
and no layout makes them smaller. The peak is the kernel's (VmHWM, reset before the step); where it cannot be reset, it
is that of the whole process, and a line says so.
"""

import argparse
import gc
import json
import subprocess
import sys

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
from nanolab.render import render_conversation
from nanolab.runtime import describe_machine, pick_device
from nanolab.tasks import GSM8K
from nanolab.train import backward

SEED_ROWS = 4  # rows of the seed's micro-batches
TINY_ROW = ([0] * 9, [1] * 9)  # ids and mask of a step that only makes the optimizers' states
COLUMNS = ("way", "at rest", "above rest", "of the seed's", "above the imports", "of the seed's")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", default="", help="folder of a saved one; without it a small one is trained")
    parser.add_argument("--vocab_size", type=int, default=65_536, help="of the model; its tokenizer may be smaller")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=16, help="of the step")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1024, 2048, 4096], help="slots, packed")
    parser.add_argument("--way", help="measure only this one, in this process, on rows from stdin; prints JSON")
    args = parser.parse_args()

    if args.way:
        print(json.dumps(measure(args, json.load(sys.stdin))))
        return
    task = GSM8K("main", "train", data=args.data)
    tokenizer = load_tokenizer(args.tokenizer, task, args.vocab_size)
    rows = [render_conversation(task[i], tokenizer) for i in range(args.conversations)]
    ways = ["seed", "padded", *(f"packed_{budget}" for budget in args.budgets)]
    print(f"{describe_machine(pick_device('cpu'))}; d{args.depth}, vocabulary {args.vocab_size:,}, float32")
    print(f"a step of {args.conversations} GSM8K conversations of {args.data}; MiB\n")
    report({way: measure_in_child(way, rows) for way in ways})


def measure_in_child(way: str, rows: list[Row]) -> dict:
    """`measure` in a fresh process with the options of this one."""
    command = [sys.executable, *sys.argv, "--way", way]
    child = subprocess.run(command, input=json.dumps(rows), stdout=subprocess.PIPE, text=True)
    if child.returncode:
        raise SystemExit(f"The process that measured {way!r} ended with {child.returncode} (negative: killed).")
    return json.loads(child.stdout.splitlines()[-1])


def measure(args, rows: list[Row]) -> dict:
    """Bytes held before the model, at rest, and at the peak of the step; and whether the peak is the step's alone."""
    batches, tiny = lay_out_for(args.way, rows), lay_out([TINY_ROW], pad_id=0)
    backward_of = seed_backward if args.way == "seed" else backward
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
