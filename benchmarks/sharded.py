"""What sharing the weights costs and saves: seconds of a step and memory of each rank, replicas against parts.

    torchrun --standalone --nproc-per-node 2 benchmarks/sharded.py [--shard_weights] [--depth 4] [--vocab_size 65536]

One way a start, since memory that a process has freed stays with it. Each rank has --micro_batches rows of --tokens
random ids, all with targets; the step is forward, backward, clipping and both optimizers, on the processor over gloo,
float32. The time is the median of --steps behind a first one; the peak is resident memory above what the process held
before the model was made; "estimate" is nanolab.memory's.
"""

import argparse
import statistics

import torch
from common import print_table

from nanolab.batch import Batch, Step, Totals
from nanolab.gpt import GPT, GPTConfig
from nanolab.memory import Load, PeakMemory, estimate_memory, held_bytes, in_mib
from nanolab.optim import make_optimizers
from nanolab.ranks import Ranks, joined
from nanolab.train import train

CPU = torch.device("cpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard_weights", action="store_true", help="each rank keeps its part of the weights")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab_size", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=1024, help="of a micro-batch")
    parser.add_argument("--micro_batches", type=int, default=2, help="of a rank, a step")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        rows = ranks.gather(measured(args, ranks))
    if ranks.leads:
        print(f"d{args.depth}, vocabulary {args.vocab_size:,}, {ranks.world_size} ranks, {describe(args)}\n")
        print_table(("rank", "s/step", "peak, MiB", "estimate, MiB", "after the last step, MiB"), rows)


def describe(args: argparse.Namespace) -> str:
    """The way, in words."""
    each = f"{args.micro_batches} micro-batches of {args.tokens:,} tokens each"
    return f"{'weights shared' if args.shard_weights else 'replicas'}, {each}"


def measured(args: argparse.Namespace, ranks: Ranks) -> list[str]:
    """A row of the table: this rank's."""
    config = GPTConfig.from_depth(args.depth, args.vocab_size)
    memory = PeakMemory(CPU)
    torch.manual_seed(0)
    model, replica = GPT(config), None
    if args.shard_weights:
        ranks.shard(model, CPU)
    else:
        replica = ranks.replica(model)
    optimizers = make_optimizers(model, 0.004, 0.2, 0.02)
    steps, seconds = [step_of(args, ranks, number) for number in range(args.steps + 1)], []
    for report in train(
        model, optimizers, steps, lambda step: (1.0, None), grad_clip=1.0, ranks=ranks, replica=replica
    ):
        seconds.append(report.seconds)
        if report.step == 0:
            memory.reset()  # what the first step has made is there in all others
    loads = [Load.of(batch) for batch in steps[0].batches]
    estimate = estimate_memory(config, loads, shards=ranks.world_size if args.shard_weights else 1)
    held = held_bytes(CPU) - memory.before
    figures = [in_mib(memory.peak_bytes()), in_mib(estimate.total), in_mib(held)]
    return [f"{ranks.rank}", f"{statistics.median(seconds[1:]):.2f}", *figures]


def step_of(args: argparse.Namespace, ranks: Ranks, number: int) -> Step:
    """This rank's share of a step of random ids."""
    numbers = torch.Generator().manual_seed(number * ranks.world_size + ranks.rank)
    ids = torch.randint(args.vocab_size, (args.micro_batches, 1, args.tokens + 1), generator=numbers)
    batches = [Batch(row[:, :-1], row[:, 1:], real_tokens=args.tokens) for row in ids]
    tokens = ranks.world_size * args.micro_batches * args.tokens
    return Step(batches, of_all_ranks=Totals(tokens, tokens, tokens, ranks.world_size * args.micro_batches))


if __name__ == "__main__":
    main()
