"""How fast base text becomes batches, and how long a resumed run waits for its first.

    python benchmarks/stream.py [--data DIR] [--tokenizer DIR] [--threads 1 2]

Steps of base training (rows of --max_seq_len tokens, --total_batch_size a step) are taken from the stream one after
another, documents encoded one at a time, and then together, by so many threads. The ways take turns; a round is --steps
steps of a fresh stream. Processor seconds are those of all threads: on a busy machine they say more than the clock.

Then a stream is asked for step --late: as a run resumed from a checkpoint that does not know its place, which encodes
all that has passed, and from its place. What that means for ranks is worked out at the end; no GPU is used.
"""

import argparse
import os
import statistics
import time

from common import print_table, times_as_fast

from nanolab.flops import useful_operations
from nanolab.gpt import GPTConfig
from nanolab.stream import StreamDataset, TextIds
from nanolab.tasks import load_text
from nanolab.tokenizer import Tokenizer

H100, SHARE = 989e12, 0.5  # dense bfloat16 operations a second, and an assumed share of them
D20_STEPS = 21_400  # of nanochat's d20: 11.2 billion tokens


class OneAtATime:
    """The same encoding without its batch form."""

    def __init__(self, together: TextIds):
        self.together = together

    def __call__(self, row: dict) -> list[int]:
        return self.together(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", help="a saved tokenizer's directory; default: a small one trained on the text")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--max_seq_len", type=int, default=2_048)
    parser.add_argument("--total_batch_size", type=int, default=524_288, help="tokens a step")
    parser.add_argument("--steps", type=int, default=4, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--late", type=int, default=30, help="the step to resume at")
    args = parser.parse_args()
    text = load_text("train", args.data)
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else small_tokenizer(text)
    print(f"Text of {args.data}: {text.described()}; vocabulary {tokenizer.vocab_size:,}; {os.cpu_count()} cores\n")
    ways = {"one at a time": OneAtATime(TextIds(tokenizer))}
    ways |= {f"together, {n} thread{'s' if n > 1 else ''}": TextIds(tokenizer, n) for n in args.threads}
    best = print_rates(text, ways, args)
    print_resuming(text, ways[best[0]], args)
    print_ranks(best, tokenizer.vocab_size, args)


def small_tokenizer(text) -> Tokenizer:
    return Tokenizer.train((row["text"] for row in text), 4_096)


def stream_of(text, encode, args: argparse.Namespace) -> StreamDataset:
    return StreamDataset(text, encode, args.max_seq_len, 32, args.total_batch_size)


def print_rates(text, ways: dict, args: argparse.Namespace) -> tuple[str, float]:
    """A table of the ways' tokens a second; the fastest way and its rate."""
    clock, processor = ({name: [] for name in ways} for _ in range(2))
    for number in range(args.rounds + 1):  # the first is to warm up
        for name, encode in ways.items():
            stream = stream_of(text, encode, args)
            began = time.perf_counter(), time.process_time()
            for step in range(args.steps):
                stream[step]
            if number:
                clock[name].append(time.perf_counter() - began[0])
                processor[name].append(time.process_time() - began[1])
    tokens, first = args.steps * args.total_batch_size, clock[next(iter(ways))]
    rates = {name: tokens / statistics.median(seconds) for name, seconds in clock.items()}
    columns = ("documents are encoded", "tokens/s", "best round", "times as fast", "processor s a million tokens")
    rows = [
        [
            name,
            f"{rates[name]:,.0f}",
            f"{tokens / min(clock[name]):,.0f}",
            f"{times_as_fast(first, clock[name]):.2f}",
            f"{statistics.median(processor[name]) / tokens * 1e6:.2f}",
        ]
        for name in ways
    ]
    print_table(columns, rows)
    return max(rates.items(), key=lambda pair: pair[1])


def print_resuming(text, encode, args: argparse.Namespace):
    began = time.perf_counter()
    whole = stream_of(text, encode, args)
    place = whole[args.late - 1].place
    without = time.perf_counter() - began
    began = time.perf_counter()
    again = stream_of(text, encode, args)
    again.start_at(*place)
    first = again[args.late]
    with_place = time.perf_counter() - began
    assert (first.batches[0].inputs == whole[args.late].batches[0].inputs).all()
    print(f"\nFirst batches of step {args.late:,}, resumed: {without:.1f} s by encoding what has passed, ", end="")
    print(f"{with_place:.2f} s from its place ({place[0]}, {place[1]:,}).")
    print(f"At step {D20_STEPS:,} the first would be {without / args.late * D20_STEPS / 3600:.1f} hours.")


def print_ranks(best: tuple[str, float], vocab_size: int, args: argparse.Namespace):
    """Of how many H100s the stream is fast enough, when every rank encodes all of it by itself."""
    name, rate = best
    config = GPTConfig.from_depth(20, vocab_size, args.max_seq_len)
    tokens, width = args.total_batch_size, args.max_seq_len
    work = useful_operations(config, tokens, tokens, tokens // width * width * (width + 1) // 2)
    seconds, encoding = work / (H100 * SHARE), tokens / rate
    print(f"\nA d20 step of {tokens:,} tokens is {work:.3g} operations: {seconds:.2f} s on one H100 at {SHARE:.0%} of")
    print(f"989 TFLOPS (an assumption), {tokens / seconds:,.0f} tokens/s. Its text is encoded in {encoding:.2f} s,")
    print(
        f"{encoding / seconds:.0%} of that ({name}). Every rank encodes every document, so at this rate encoding keeps"
    )
    print(f"up with {seconds / encoding:.0f} GPUs that train one model.")


if __name__ == "__main__":
    main()
