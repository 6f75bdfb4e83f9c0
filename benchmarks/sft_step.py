"""How fast an SFT step is: ours against the seed's loop and, with --trl, TRL's SFTTrainer, on the same rows.

    python benchmarks/sft_step.py [--data toy] [--tokenizer DIR] [--task gsm8k] [--steps 2] [--rounds 3] [--trl]

Steps of 32 conversations: forward, backward, optimizers. The ways:

    seed          4 padded rows a micro-batch, float32 logits of all positions, mean of micro-batch means
    seed_bf16     the same with bfloat16 products
    padded        ours: the same rows, only supervised positions projected
    bucketed      ours: rows of similar lengths, under --device_batch_tokens slots a micro-batch
    packed        ours: rows end to end without padding, under as many slots
    packed_bf16   the same with bfloat16 products
    TRL <name>    settings of trl_peer.py

All ways but TRL's use our optimizers, the seed too: AdamW, and Muon with its products in the way's dtype. TRL uses
AdamW for all weights. Weights of equal dtype are shared by the ways. Batches are made before the clock starts (TRL
collates inside). bfloat16 is measured only where the processor has instructions for it.

One step warms up; then each of --steps steps is done by all ways in turn, --rounds times. s/step is the median of the
rounds, "times the seed" the median over rounds of the supervised tokens/s against those of `seed` in the same round.
"share" is the useful arithmetic (nanolab.flops.useful_operations: what no way can leave out) a second against the best
product of 2,048 x 2,048 matrices of that dtype in the same run; the seed does more arithmetic than that for nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from common import (
    PRODUCT_SIZE,
    load_tokenizer,
    make_model,
    move_weights,
    print_table,
    seconds_of,
    seed_backward,
    sft_optimizers,
)
from trl_peer import SETTINGS, TASKS, need_trl, not_here, trl_rate

from nanolab.batch import Batch, Row, lay_out
from nanolab.flops import matrix_rate, useful_operations
from nanolab.gpt import GPTConfig
from nanolab.render import render_conversation
from nanolab.runtime import bfloat16_instructions, describe_machine, pick_device
from nanolab.tokenizer import Tokenizer
from nanolab.train import backward

EXAMPLES_PER_STEP = 32
SEED_ROWS = 4  # rows of the seed's micro-batches
COLUMNS = ("way", "s/step", "padding", "slots/s", "real tokens/s", "supervised tokens/s", "times the seed", "share")


@dataclass(frozen=True)
class Way:
    """One way to do a step: the gradient's function (model, batches, dtype=...), the layout, the products' dtype."""

    backward: Callable
    batching: str
    dtype: str = "float32"


WAYS = {
    "seed": Way(seed_backward, "padded"),
    "seed_bf16": Way(seed_backward, "padded", "bfloat16"),
    "padded": Way(backward, "padded"),
    "bucketed": Way(backward, "bucketed"),
    "packed": Way(backward, "packed"),
    "packed_bf16": Way(backward, "packed", "bfloat16"),
}


@dataclass
class Measured:
    """What one way did in a round, all its steps together, and the seconds of each round."""

    dtype: str
    slots: int
    real_tokens: int
    supervised: int
    seconds: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Supervised tokens a second in each round."""
        return [self.supervised / seconds for seconds in self.seconds]


def main():
    args = arguments()
    device = pick_device("cpu")
    mixture = TASKS[args.task](args.data)
    tokenizer = load_tokenizer(args.tokenizer, mixture, args.vocab_size)
    rows = [render_conversation(mixture[i], tokenizer) for i in range((args.steps + 1) * EXAMPLES_PER_STEP)]
    config = GPTConfig.from_depth(args.depth, args.vocab_size)
    print(f"{describe_machine(device)}; d{args.depth}, vocabulary {args.vocab_size:,}")
    print(
        f"{args.task} rows of {args.data}, {EXAMPLES_PER_STEP} a step, {args.steps} steps after one to warm up, "
        f"{args.rounds} rounds; {args.device_batch_tokens:,} slots a bucketed or packed micro-batch"
    )
    ways = {name: way for name, way in WAYS.items() if name in {"seed", *args.ways} and possible(way)}
    found = {name: measured(way.dtype, steps_of(rows, way, args)[1:]) for name, way in ways.items()}
    run_ours = prepare(ways, rows, args)
    rates = {way.dtype: 0.0 for way in ways.values()}
    for number in range(args.rounds):
        began = time.perf_counter()
        for name, seconds in run_ours().items():
            found[name].seconds.append(seconds)
        for setting in args.trl_settings if args.trl else ():
            add_trl(found, setting, rows, tokenizer, config, args.steps)
        rates = {dtype: max(best, matrix_rate(device, dtype, PRODUCT_SIZE)) for dtype, best in rates.items()}
        print(f"round {number + 1} of {args.rounds}: {time.perf_counter() - began:.0f} s", flush=True)
    report(args, found, rates, config, rows[EXAMPLES_PER_STEP:])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", default="", help="folder of a saved one; without it a small one is trained")
    parser.add_argument("--task", choices=TASKS, default="gsm8k")
    parser.add_argument("--vocab_size", type=int, default=65_536, help="of the model; its tokenizer may be smaller")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="different steps of 32 conversations a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device_batch_tokens", type=int, default=4_096)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help="besides the seed")
    parser.add_argument("--trl", action="store_true", help="measure TRL too")
    parser.add_argument(
        "--trl_settings", nargs="+", choices=SETTINGS, default=["one_row", "padding_free"], metavar="SETTING"
    )
    args = parser.parse_args()
    if args.trl:
        need_trl()
        args.trl_settings = [name for name in args.trl_settings if not not_here(SETTINGS[name])]
    return args


def possible(way: Way) -> bool:
    return way.dtype == "float32" or bool(bfloat16_instructions())


def steps_of(rows: Sequence[Row], way: Way, args) -> list[list[Batch]]:
    """The batches of each step, the one that warms up first."""
    lay = partial(
        lay_out,
        batching=way.batching,
        pad_id=0,
        device_batch_size=SEED_ROWS,
        device_batch_tokens=args.device_batch_tokens,
    )
    return [lay(rows[i : i + EXAMPLES_PER_STEP]) for i in range(0, len(rows), EXAMPLES_PER_STEP)]


def measured(dtype: str, steps: list[list[Batch]]) -> Measured:
    batches = [batch for step in steps for batch in step]
    counts = (sum(getattr(batch, name) for batch in batches) for name in ("slots", "real_tokens", "num_tokens"))
    return Measured(dtype, *counts)


def prepare(ways: dict[str, Way], rows: Sequence[Row], args) -> Callable[[], dict[str, float]]:
    """Do the step that warms up in all ways; return what does one round and gives each way's seconds."""
    models = {dtype: make_model(args.depth, args.vocab_size) for dtype in {way.dtype for way in ways.values()}}
    optimizers = {dtype: sft_optimizers(model, dtype) for dtype, model in models.items()}
    steps = {name: steps_of(rows, way, args) for name, way in ways.items()}

    def seconds_of_step(name: str, number: int) -> float:
        way = ways[name]
        model = models[way.dtype]

        def work():
            way.backward(model, steps[name][number], dtype=way.dtype)
            move_weights(model, optimizers[way.dtype])

        return seconds_of(work)

    def one_round() -> dict[str, float]:
        spent = dict.fromkeys(ways, 0.0)
        for number in range(1, args.steps + 1):
            for name in ways:
                spent[name] += seconds_of_step(name, number)
        return spent

    for name in ways:
        seconds_of_step(name, 0)
    return one_round


def add_trl(
    found: dict[str, Measured], setting: str, rows: Sequence[Row], tokenizer: Tokenizer, config: GPTConfig, steps: int
):
    """One round of a TRL setting: its own step to warm up, then the same steps as ours."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    done = trl_rate(rows, tokenizer, config, setting, steps, SEED_ROWS, EXAMPLES_PER_STEP)
    dtype = "bfloat16" if SETTINGS[setting].needs == "bfloat16" else "float32"
    counts = (int(done[name]) for name in ("slots", "real", "supervised"))
    entry = found.setdefault(f"TRL {setting}", Measured(dtype, *counts))
    entry.seconds.append(done["seconds_per_step"] * steps)


def report(args, found: dict[str, Measured], rates: dict[str, float], config: GPTConfig, rows: Sequence[Row]):
    seed = found["seed"]
    lengths = [len(ids) - 1 for ids, _ in rows]
    useful = useful_operations(config, sum(lengths), seed.supervised, sum(L * (L + 1) // 2 for L in lengths))
    products = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items())
    print(f"useful arithmetic {useful / args.steps / 1e9:.0f} GFLOP a step; products reach {products}\n")
    lines = [line(name, way, seed, args.steps, useful, rates) for name, way in found.items()]
    not_measured = [name for name in WAYS if name in args.ways and name not in found]
    blank = [""] * (len(COLUMNS) - 2)
    print_table(COLUMNS, lines + [[name, "no bfloat16 instructions: not measured", *blank] for name in not_measured])


def line(name: str, way: Measured, seed: Measured, steps: int, useful: float, rates: dict[str, float]) -> list[str]:
    seconds = statistics.median(way.seconds)
    times = statistics.median(ours / theirs for ours, theirs in zip(way.rates, seed.rates, strict=True))
    same_rows = way.supervised == seed.supervised  # TRL may shuffle rows of the warm-up among the others
    share = f"{useful / seconds / rates[way.dtype]:.0%}" if same_rows and way.dtype in rates else "other rows"
    return [
        name,
        f"{seconds / steps:.2f}",
        f"{1 - way.real_tokens / way.slots:.1%}",
        *(f"{count / seconds:,.0f}" for count in (way.slots, way.real_tokens, way.supervised)),
        f"{times:.2f}",
        share,
    ]


if __name__ == "__main__":
    main()
