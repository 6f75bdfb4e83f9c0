"""How much of a step is padding: the three layouts on the whole SFT mixture, one epoch, conversations in order.

    python benchmarks/padding.py [--data toy] [--tokenizer DIR] [--device_batch_tokens 1024 2048]

Only lengths count, so no model is needed. Padding and micro-batches are of all steps of the epoch, distinct shapes of
the first 200. "static" fills every micro-batch up to one of a few shapes, as compiled models want it.
"""

import argparse
import time

from common import train_small_tokenizer

from nanolab.layout import Plan, plan
from nanolab.render import render_conversation
from nanolab.tasks import sft_mixture
from nanolab.tokenizer import Tokenizer

SHAPES_STEPS = 200  # steps of which distinct shapes are counted
SEED_ROWS = 4  # rows of the seed's micro-batches


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", help="a saved tokenizer's directory; default: a small one trained on the rows")
    parser.add_argument("--device_batch_tokens", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--conversations", type=int, nargs="+", default=[4, 32, 256], help="conversations a step")
    args = parser.parse_args()

    began = time.perf_counter()
    mixture = sft_mixture(data=args.data)
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else train_small_tokenizer(mixture)
    rows = [render_conversation(mixture[i], tokenizer) for i in range(len(mixture))]
    lengths = [len(ids) - 1 for ids, _ in rows]
    print(
        f"SFT mixture of {args.data}: {len(rows):,} conversations of {min(lengths):,} to {max(lengths):,} input slots, "
        f"{sum(lengths) / len(rows):.0f} in the mean; vocabulary {tokenizer.vocab_size:,}\n"
    )
    print_padding(lengths, args.conversations, args.device_batch_tokens)
    print_supervised([sum(mask[1:]) for _, mask in rows])
    print(f"{time.perf_counter() - began:.0f} s")


def print_padding(lengths: list[int], conversations: list[int], budgets: list[int]):
    print("| conversations a step | layout | slots a micro-batch | padding | micro-batches a step | distinct shapes |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for count in conversations:
        for batching, budget, static in layouts(budgets):
            chosen = {"device_batch_size": SEED_ROWS, "device_batch_tokens": budget or 2048, "static_shapes": static}
            plans = [plan(step, batching, **chosen) for step in steps_of(lengths, count)]
            name = f"{batching}, static" if static else batching
            print(f"| {count} | {name} | {f'{budget:,}' if budget else '4 rows'} | {measures(plans)} |")


def layouts(budgets: list[int]) -> list[tuple[str, int | None, bool]]:
    """(batching, slots a micro-batch or None for a number of rows, static shapes or not)."""
    budgeted = [
        (name, budget, static) for name in ("bucketed", "packed") for budget in budgets for static in (False, True)
    ]
    return [("padded", None, False), ("padded", None, True), *budgeted]


def steps_of(numbers: list[int], count: int) -> list[list[int]]:
    """The whole steps of one epoch."""
    return [numbers[i : i + count] for i in range(0, len(numbers) - count + 1, count)]


def measures(plans: list[Plan]) -> str:
    slots, real_tokens = sum(p.slots for p in plans), sum(p.real_tokens for p in plans)
    micro_batches = sum(len(p.micro_batches) for p in plans) / len(plans)
    shapes = {shape for p in plans[:SHAPES_STEPS] for shape in p.shapes}
    return f"{1 - real_tokens / slots:.2%} | {micro_batches:.2f} | {len(shapes):,}"


def print_supervised(supervised: list[int]):
    tokens = [sum(four) for four in steps_of(supervised, SEED_ROWS)]
    print(
        f"\nThe seed's {len(tokens):,} micro-batches of {SEED_ROWS} conversations carry {min(tokens):,} to "
        f"{max(tokens):,} supervised tokens, and all weigh the same in its loss."
    )


if __name__ == "__main__":
    main()
