"""How evenly ranks share a step: most real tokens of a rank over the mean, one epoch of the whole SFT mixture.

    python benchmarks/ranks.py [--data toy] [--tokenizer DIR] [--ranks 2 8 64]

Ranks wait for the slowest, so 1.05 is five hundredths of everybody's time. "by length" is ours (layout.share_out), "as
they come" the seed's: every rank takes each world_size-th conversation, and "no dealing is better than" the longest
conversation over the mean, because nobody cuts conversations. Only lengths count, so no model is needed. The last
column is what packing makes of the shares, in flat rows of --device_batch_tokens slots with static shapes.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

from common import print_table, train_small_tokenizer

from nanolab.layout import imbalance, plan, share_out
from nanolab.render import render_conversation
from nanolab.tasks import sft_mixture
from nanolab.tokenizer import Tokenizer

COLUMNS = ("conversations a step", "ranks", "dealt", "mean", "95 % of steps", "worst", "packed slots, mean")


def as_they_come(lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """The seed's dealing: scripts/chat_sft.py of karpathy/nanochat."""
    return [list(range(rank, len(lengths), world_size)) for rank in range(world_size)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", help="a saved tokenizer's directory; default: a small one trained on the rows")
    parser.add_argument("--device_batch_tokens", type=int, default=4096)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--conversations", type=int, nargs="+", default=[32, 256], help="conversations a step")
    args = parser.parse_args()
    mixture = sft_mixture(data=args.data)
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else train_small_tokenizer(mixture)
    lengths = [len(render_conversation(mixture[i], tokenizer)[0]) - 1 for i in range(len(mixture))]
    print(f"SFT mixture of {args.data}: {len(lengths):,} conversations; vocabulary {tokenizer.vocab_size:,}\n")
    rows = []
    for count in args.conversations:
        steps = [lengths[start : start + count] for start in range(0, len(lengths) - count + 1, count)]
        for world_size in args.ranks:
            for name, deal in (("by length", share_out), ("as they come", as_they_come)):
                rows.append([f"{count}", f"{world_size}", name, *measured(steps, world_size, deal, args)])
            least = [max(1.0, max(step) * world_size / sum(step)) for step in steps]
            rows.append([f"{count}", f"{world_size}", "no dealing is better than", *figures(least), ""])
    print_table(COLUMNS, rows)


def measured(steps: list[list[int]], world_size: int, deal: Callable, args: argparse.Namespace) -> list[str]:
    tokens, slots = [], []
    for step in steps:
        shares = [[step[i] for i in share] for share in deal(step, world_size)]
        tokens.append(imbalance([sum(share) for share in shares]))
        options = {"device_batch_tokens": args.device_batch_tokens, "static_shapes": True}
        slots.append(imbalance([plan(share, "packed", **options).slots for share in shares]))
    return [*figures(tokens), f"{statistics.mean(slots):.3f}"]


def figures(numbers: Sequence[float]) -> list[str]:
    """Mean, 95th percentile and worst."""
    return [
        f"{number:.3f}" for number in (statistics.mean(numbers), statistics.quantiles(numbers, n=20)[-1], max(numbers))
    ]


if __name__ == "__main__":
    main()
