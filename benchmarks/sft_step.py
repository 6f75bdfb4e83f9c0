"""How fast an SFT step is: ours against the seed's formula, in one run on the same rows and weights.

    python benchmarks/sft_step.py [--data toy] [--vocab_size 65536] [--steps 5]

Two ways to the same step of 32 conversations, 4 a micro-batch, padded, forward, backward and optimizers:

    seed      logits of all positions, then cross_entropy with ignore_index (nanochat's chat_sft.py)
    nanolab   select the supervised positions, then project them

Steps are timed in turn, seed, nanolab, seed, ..., so that a noisy machine is noisy for both; the median counts.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from common import train_small_tokenizer

from nanolab.batch import IGNORE_INDEX, StepDataset
from nanolab.gpt import GPT, GPTConfig
from nanolab.optim import make_optimizers
from nanolab.runtime import describe_machine, pick_device
from nanolab.tasks import sft_mixture
from nanolab.train import backward


def seed_backward(model, batches):
    """The seed's step: every position's logits, the mean of micro-batch means."""
    for batch in batches:
        logits = model(batch.inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)
        (loss / len(batches)).backward()


def timed_step(backward_of, model, optimizers, batches) -> float:
    began = time.perf_counter()
    backward_of(model, batches)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--vocab_size", type=int, default=65_536, help="of the model; its tokenizer may be smaller")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each way")
    args = parser.parse_args()

    device = pick_device("cpu")
    mixture = sft_mixture(data=args.data)
    tokenizer = train_small_tokenizer(mixture)
    steps = StepDataset(mixture, tokenizer, num_examples=32, device_batch_size=4)
    ways = {"seed": seed_backward, "nanolab": backward}
    models, seconds = {}, {name: [] for name in ways}
    for name in ways:
        torch.manual_seed(0)
        model = GPT(GPTConfig.from_depth(args.depth, args.vocab_size))
        models[name] = (model, make_optimizers(model, 0.004, 0.2, 0.02, init_lr_frac=0.02))
    totals = {"slots": 0, "real": 0, "supervised": 0}
    for number in range(args.steps + 1):  # the first warms up
        step = steps[number]
        for name, way in ways.items():
            spent = timed_step(way, *models[name], step.batches)
            if number:
                seconds[name].append(spent)
        if number:
            totals["slots"] += step.slots
            totals["real"] += step.real_tokens
            totals["supervised"] += step.num_tokens
    report(args, device, totals, seconds)


def report(args, device, totals, seconds):
    print(f"{describe_machine(device)}; d{args.depth}, vocabulary {args.vocab_size:,}, rows of {args.data}, float32")
    print(f"padding {1 - totals['real'] / totals['slots']:.0%} of {totals['slots']:,} slots in {args.steps} steps")
    print(f"{'':10}{'s/step':>8}{'slots/s':>10}{'real/s':>10}{'supervised/s':>14}")
    for name, spent in seconds.items():
        rates = "".join(
            f"{total / sum(spent):>{width}.0f}" for total, width in zip(totals.values(), (10, 10, 14), strict=True)
        )
        print(f"{name:10}{statistics.median(spent):>8.2f}{rates}")
    ratios = [a / b for a, b in zip(seconds["seed"], seconds["nanolab"], strict=True)]
    print(f"nanolab is {statistics.median(ratios):.2f} times as fast as the seed's formula (median of {len(ratios)})")


if __name__ == "__main__":
    main()
