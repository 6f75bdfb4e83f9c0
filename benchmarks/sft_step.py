"""How fast an SFT step is: ours against the seed's loop and, with --trl, TRL's SFTTrainer, on the same rows.

    python benchmarks/sft_step.py [--data toy] [--tokenizer DIR] [--task gsm8k] [--steps 2] [--rounds 3] [--trl]
                                  [--device_type cpu] [--ways packed packed_compiled]

Steps of 32 conversations: forward, backward, optimizers. The ways:

    seed                    4 padded rows a micro-batch, float32 logits of all positions, mean of micro-batch means
    seed_bf16               the same with bfloat16 products
    padded                  ours: the same rows, only supervised positions projected
    bucketed                ours: rows of similar lengths, under --device_batch_tokens slots a micro-batch
    packed                  ours: rows end to end without padding, under as many slots
    packed_bf16             the same with bfloat16 products
    packed_compiled         packed in static shapes that torch.compile has compiled before the first step; only if named
    packed_compiled_bf16    the same with bfloat16 products
    TRL <name>              settings of trl_peer.py

All ways but TRL's use our optimizers, the seed too: AdamW, and Muon with its products in the way's dtype. TRL uses
AdamW for all weights. Weights of equal dtype are shared by the ways; TRL begins with the same ones, and both losses of
the first step are printed. Batches are made before the clock starts (TRL collates inside), and copied to the device
while it runs. bfloat16 is measured on CUDA, and on a processor only if that has instructions for it.

One step warms up; then each of --steps steps is done by all ways in turn, --rounds times. s/step is the median of the
rounds, "times the seed" the median over rounds of the supervised tokens/s against those of `seed` in the same round.
"share" is the useful arithmetic (nanolab.flops.useful_operations: what no way can leave out) a second against the
device's peak: the data sheet's for bfloat16 on a known card, else the best product of square matrices of that dtype in
the same run. The seed does more arithmetic than that for nothing.

"peak MiB", on CUDA only (benchmarks/memory.py measures it on a processor): the most that the way's tensors take at a
time in any step, one to warm up included: weights, optimizer states, gradients, activations, logits. It is that of the
way by itself, though the weights and states of all dtypes lie on the card together, so that the ways can take turns:
another dtype's are not counted. "recompilations": graphs that torch compiled in a way's steps after its warm-up.

A way that takes more memory than the card has is left out, and named below the table.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from common import (
    PRODUCT_SIZE,
    bench_device,
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
from nanolab.compiled import CompiledGPT, compiler_problem
from nanolab.convert.names import transformers_weights
from nanolab.evaluate import mean_loss
from nanolab.flops import Peak, data_sheet, matrix_rate, useful_operations
from nanolab.gpt import GPTConfig
from nanolab.layout import possible_shapes
from nanolab.memory import MiB, held_bytes, peak_bytes, reset_peak
from nanolab.render import render_conversation
from nanolab.runtime import bfloat16_instructions, describe_machine
from nanolab.tokenizer import Tokenizer
from nanolab.train import backward

EXAMPLES_PER_STEP = 32
SEED_ROWS = 4  # rows of the seed's micro-batches
COLUMNS = (
    "way",
    "s/step",
    "padding",
    "slots/s",
    "real tokens/s",
    "supervised tokens/s",
    "times the seed",
    "share",
    "peak MiB",
    "recompilations",
)


@dataclass(frozen=True)
class Way:
    """One way to do a step: what makes the gradient (model, batches, dtype, device), the layout, its products' dtype.

    `compiled`: in static shapes, through the compiled form of the model.
    """

    backward: Callable
    batching: str
    dtype: str = "float32"
    compiled: bool = False


WAYS = {
    "seed": Way(seed_backward, "padded"),
    "seed_bf16": Way(seed_backward, "padded", "bfloat16"),
    "padded": Way(backward, "padded"),
    "bucketed": Way(backward, "bucketed"),
    "packed": Way(backward, "packed"),
    "packed_bf16": Way(backward, "packed", "bfloat16"),
    "packed_compiled": Way(backward, "packed", compiled=True),
    "packed_compiled_bf16": Way(backward, "packed", "bfloat16", compiled=True),
}


@dataclass
class Measured:
    """What one way did in a round, all its steps together, and the seconds of each round."""

    dtype: str
    slots: int
    real_tokens: int
    supervised: int
    seconds: list[float] = field(default_factory=list)
    peak: int | None = None  # bytes
    recompilations: int | None = None
    first_loss: float | None = None  # TRL's, of the step that warms up

    @property
    def rates(self) -> list[float]:
        """Supervised tokens a second in each round."""
        return [self.supervised / seconds for seconds in self.seconds]


def main(words: Sequence[str] | None = None):
    args = arguments(words)
    device = bench_device(args.device_type)
    check_trl(args, device)
    mixture = TASKS[args.task](args.data)
    tokenizer = load_tokenizer(args.tokenizer, mixture, args.vocab_size)
    rows = [render_conversation(mixture[i], tokenizer) for i in range((args.steps + 1) * EXAMPLES_PER_STEP)]
    config = GPTConfig.from_depth(args.depth, args.vocab_size)
    report_head(args, device, rows)
    problems = {name: why_not(way, device) for name, way in WAYS.items() if name in {"seed", *args.ways}}
    ours = Ours({name: WAYS[name] for name, problem in problems.items() if not problem}, rows, args, device)
    first_loss = ours.first_loss()
    ours.warm_up()
    found = ours.counts()
    trl = trl_runner(rows, tokenizer, config, args, device) if args.trl else None
    rates = measure_rounds(found, ours, trl, args)
    for name in ours.compiled.keys() & found.keys():
        found[name].recompilations = ours.recompiled[name]
    report_losses(first_loss, found)
    report(args, found, shares_of(device, rates), config, rows[EXAMPLES_PER_STEP:])
    print_missing(problems | ours.too_large)


def measure_rounds(found: dict[str, Measured], ours: "Ours", trl: Callable | None, args) -> dict[str, float]:
    """All rounds: ours and TRL's in turn, noted in `found`; the best rate of products of each dtype."""
    rates = {}
    for number in range(args.rounds):
        gc.collect()  # TRL's trainers of the round before, which hold themselves, and their weights, in a circle
        began = time.perf_counter()
        for name, seconds in ours.one_round().items():
            found[name].seconds.append(seconds)
        for name in found.keys() & ours.too_large.keys():  # since this round
            found.pop(name)
        for setting in list(args.trl_settings) if trl else ():
            try:
                add_trl(found, setting, trl(setting=setting), args.steps, ours.device)
            except torch.OutOfMemoryError as error:
                args.trl_settings.remove(setting)
                found.pop(f"TRL {setting}", None)
                ours.too_large[f"TRL {setting}"] = out_of_memory(error)
        for dtype in dict.fromkeys(way.dtype for way in found.values()):
            rate = matrix_rate(ours.device, dtype, PRODUCT_SIZE[ours.device.type])
            rates[dtype] = max(rate, rates.get(dtype, 0.0))
        print(f"round {number + 1} of {args.rounds}: {time.perf_counter() - began:.0f} s", flush=True)
    return rates


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", default="", help="folder of a saved one; without it a small one is trained")
    parser.add_argument("--task", choices=TASKS, default="gsm8k")
    parser.add_argument("--vocab_size", type=int, default=65_536, help="of the model; its tokenizer may be smaller")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="different steps of 32 conversations a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device_batch_tokens", type=int, default=4_096)
    eager = [name for name, way in WAYS.items() if not way.compiled]
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=eager, metavar="WAY", help="besides the seed")
    parser.add_argument("--device_type", choices=("", "cpu", "cuda"), default="cpu", help='"": CUDA if there is one')
    parser.add_argument("--trl", action="store_true", help="measure TRL too")
    parser.add_argument(
        "--trl_settings", nargs="+", choices=SETTINGS, default=["one_row", "padding_free"], metavar="SETTING"
    )
    return parser.parse_args(words)


def check_trl(args, device: torch.device):
    """TRL must be there if asked for; settings that cannot run here are named and left out."""
    if not args.trl:
        return
    need_trl()
    problems = {name: not_here(SETTINGS[name], device) for name in args.trl_settings}
    for name, problem in problems.items():
        if problem:
            print(f"TRL {name}: not measured, {problem}")
    args.trl_settings = [name for name, problem in problems.items() if not problem]


def why_not(way: Way, device: torch.device) -> str:
    """Why a way cannot be measured on this machine, or ""."""
    if way.dtype == "bfloat16" and device.type == "cpu" and not bfloat16_instructions():
        return "no bfloat16 instructions"
    if way.compiled and (problem := compiler_problem(device)):
        return f"torch.compile does not work here: {problem}"
    return ""


def report_head(args, device: torch.device, rows: Sequence[Row]):
    print(f"{describe_machine(device)}; d{args.depth}, vocabulary {args.vocab_size:,}")
    print(
        f"{args.task} rows of {args.data}, {EXAMPLES_PER_STEP} a step, {args.steps} steps after one to warm up, "
        f"{args.rounds} rounds; {args.device_batch_tokens:,} slots a bucketed or packed micro-batch; longest row "
        f"{longest(rows):,}"
    )


def longest(rows: Sequence[Row]) -> int:
    """Input slots of the longest conversation."""
    return max(len(ids) - 1 for ids, _ in rows)


def steps_of(rows: Sequence[Row], way: Way, args) -> list[list[Batch]]:
    """The batches of each step, the one that warms up first."""
    lay = partial(
        lay_out,
        batching=way.batching,
        pad_id=0,
        device_batch_size=SEED_ROWS,
        device_batch_tokens=args.device_batch_tokens,
        static_shapes=way.compiled,
        most_documents=EXAMPLES_PER_STEP,
    )
    return [lay(rows[i : i + EXAMPLES_PER_STEP]) for i in range(0, len(rows), EXAMPLES_PER_STEP)]


def measured(dtype: str, steps: list[list[Batch]], peak: int | None = None) -> Measured:
    batches = [batch for step in steps for batch in step]
    counts = (sum(getattr(batch, name) for batch in batches) for name in ("slots", "real_tokens", "num_tokens"))
    return Measured(dtype, *counts, peak=peak)


class Ours:
    """Our ways side by side: a model and its optimizers for each dtype, and each way's steps; step 0 warms up.

    `recompiled` counts the graphs that were compiled in the steps of each compiled way, `too_large` says what did not
    fit into the card's memory and is left out.
    """

    def __init__(self, ways: dict[str, Way], rows: Sequence[Row], args, device: torch.device):
        self.ways, self.device = ways, device
        self.steps = {name: steps_of(rows, way, args) for name, way in ways.items()}
        dtypes = dict.fromkeys(way.dtype for way in ways.values())
        self.models = {dtype: make_model(args.depth, args.vocab_size, device=device) for dtype in dtypes}
        self.optimizers = {dtype: sft_optimizers(model, dtype) for dtype, model in self.models.items()}
        self.compiled = {name: CompiledGPT(self.models[way.dtype]) for name, way in ways.items() if way.compiled}
        self.recompiled = dict.fromkeys(self.compiled, 0)
        self.too_large: dict[str, str] = {}
        self.shapes = possible_shapes("packed", args.device_batch_tokens, longest(rows))

    def first_loss(self) -> float:
        """The loss of step 0 with the weights as they are, in nats a supervised token."""
        return mean_loss(self.models["float32"], self.steps["seed"][0])

    def warm_up(self):
        """Compile what is to be compiled, then do step 0 in all ways: kernels are loaded and optimizers get states."""
        for name, compiled in self.compiled.items():
            way = self.ways[name]
            with self.leaving_out(name):
                compiled.warm_up(self.shapes, way.batching, way.dtype, most_documents=EXAMPLES_PER_STEP)
        for name in list(self.ways):
            with self.leaving_out(name):
                self.seconds_of_step(name, 0)

    @contextmanager
    def leaving_out(self, name: str) -> Iterator[None]:
        """While entered, a way that takes more memory than the card has is left out: the others may fit."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            way = self.ways.pop(name)
            self.models[way.dtype].zero_grad(set_to_none=True)
            self.too_large[name] = out_of_memory(error)

    def counts(self) -> dict[str, Measured]:
        """What each way has to do in a round and, on CUDA, its peak, for which every step is done once."""
        peaks = self.peaks() if self.device.type == "cuda" else {}
        return {name: measured(way.dtype, self.steps[name][1:], peaks.get(name)) for name, way in self.ways.items()}

    def one_round(self) -> dict[str, float]:
        """All steps but the first in all ways, in turn: each way's seconds."""
        spent = dict.fromkeys(self.ways, 0.0)
        for number in range(1, len(self.steps["seed"])):
            for name in list(self.ways):
                with self.leaving_out(name):
                    spent[name] += self.seconds_of_step(name, number)
        return {name: spent[name] for name in self.ways}

    def peaks(self) -> dict[str, int]:
        """Bytes that each way holds at most in any of its steps, its own weights and optimizer states with them.

        A pass of its own, behind the warm-up and not timed; for CUDA, where bytes of tensors are counted.
        """
        found = {}
        for name, way in list(self.ways.items()):
            rest = held_bytes(self.device)
            reset_peak(self.device)
            with self.leaving_out(name):
                for number in range(len(self.steps[name])):
                    self.seconds_of_step(name, number)
            own = bytes_of(self.models[way.dtype], self.optimizers[way.dtype])
            found[name] = peak_bytes(self.device) - rest + own
        return found

    def seconds_of_step(self, name: str, number: int) -> float:
        way, model = self.ways[name], self.models[self.ways[name].dtype]
        forward = self.compiled.get(name, model)

        def work():
            way.backward(forward, self.steps[name][number], dtype=way.dtype, device=self.device)
            move_weights(model, self.optimizers[way.dtype])

        if not way.compiled:
            return seconds_of(work, self.device)
        before = forward.recompilations  # of the whole process, another way's warm-up too
        seconds = seconds_of(work, self.device)
        self.recompiled[name] += forward.recompilations - before
        return seconds


def out_of_memory(error: torch.OutOfMemoryError) -> str:
    """The beginning of torch's words, which says how much was asked for."""
    return str(error).partition("\n")[0].partition(". GPU")[0]


def bytes_of(model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Bytes of a model's weights and its optimizers' states, without gradients."""
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    return sum(tensor.nbytes for tensor in [*model.parameters(), *states] if torch.is_tensor(tensor))


def trl_runner(rows: Sequence[Row], tokenizer: Tokenizer, config: GPTConfig, args, device: torch.device) -> Callable:
    """What trains one round of a TRL setting, trl(setting=...): the weights and the steps are ours."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    return partial(
        trl_rate,
        rows,
        tokenizer,
        config,
        steps=args.steps,
        device_batch_size=SEED_ROWS,
        examples_per_step=EXAMPLES_PER_STEP,
        device=device,
        weights=transformers_weights(make_model(args.depth, args.vocab_size).state_dict()),
    )


def add_trl(found: dict[str, Measured], name: str, done: dict[str, float], steps: int, device: torch.device):
    """Note one round of a TRL setting: its own step to warm up, then the same steps as ours."""
    setting = SETTINGS[name]
    counts = (int(done[count]) for count in ("slots", "real", "supervised"))
    entry = found.setdefault(f"TRL {name}", Measured(setting.dtype_on(device), *counts))
    entry.seconds.append(done["seconds_per_step"] * steps)
    if device.type == "cuda":
        entry.peak = max(entry.peak or 0, int(done["peak"]))
    if not setting.shuffles and not setting.packs:  # these may have other rows in their first step
        entry.first_loss = done["first_loss"]


def report_losses(ours: float, found: dict[str, Measured]):
    """Whether TRL trains the same model on the same tokens."""
    for name, way in found.items():
        if way.first_loss is not None:
            theirs = f"{name} {way.first_loss:.4f} ({way.dtype})"
            print(f"loss of the first step, with the same weights: ours {ours:.4f} (float32), {theirs}")


def shares_of(device: torch.device, rates: dict[str, float]) -> dict[str, Peak]:
    """What "share" is a share of, by dtype; says so, and how fast products were (`rates`)."""
    products = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items())
    size = PRODUCT_SIZE[device.type]
    peaks = {dtype: Peak(rate, "the best product of this run") for dtype, rate in rates.items()}
    if device.type == "cuda" and "bfloat16" in rates:
        peaks["bfloat16"] = data_sheet(torch.cuda.get_device_name(device)) or peaks["bfloat16"]
    print(f"products of {size:,} x {size:,} matrices reach {products}")
    print(f'"share" is of {"; ".join(f"{peak} ({dtype})" for dtype, peak in peaks.items())}')
    return peaks


def report(args, found: dict[str, Measured], peaks: dict[str, Peak], config: GPTConfig, rows: Sequence[Row]):
    lengths = [len(ids) - 1 for ids, _ in rows]
    learned, pairs = sum(sum(mask[1:]) for _, mask in rows), sum(L * (L + 1) // 2 for L in lengths)
    useful = useful_operations(config, sum(lengths), learned, pairs)
    print(f"useful arithmetic {useful / args.steps / 1e9:,.0f} GFLOP a step\n")
    seed = found.get("seed")
    print_table(COLUMNS, [line(name, way, seed, learned, args.steps, useful, peaks) for name, way in found.items()])


def line(
    name: str, way: Measured, seed: Measured | None, learned: int, steps: int, useful: float, peaks: dict[str, Peak]
) -> list[str]:
    seconds, times = statistics.median(way.seconds), "-"
    if seed is not None:
        pairs = zip(way.rates, seed.rates, strict=True)
        times = f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"
    same_rows = way.supervised == learned  # TRL may shuffle rows of the warm-up among the others
    share = f"{useful / seconds / peaks[way.dtype].operations:.0%}" if same_rows else "other rows"
    return [
        name,
        f"{seconds / steps:.3f}",
        f"{1 - way.real_tokens / way.slots:.1%}",
        *(f"{count / seconds:,.0f}" for count in (way.slots, way.real_tokens, way.supervised)),
        times,
        share,
        "-" if way.peak is None else f"{way.peak / MiB:,.0f}",
        "-" if way.recompilations is None else str(way.recompilations),
    ]


def print_missing(problems: dict[str, str]):
    for name, problem in problems.items():
        if problem:
            print(f"| {name} | {problem}: not measured |{' |' * (len(COLUMNS) - 2)}")


if __name__ == "__main__":
    main()
