"""What several benchmarks need: a tokenizer, a model, the seed's step, clocks, memory and tables."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from nanolab.batch import IGNORE_INDEX, Batch
from nanolab.gpt import GPT, GPTConfig
from nanolab.memory import MiB, peak_bytes, reset_peak
from nanolab.memory import held_bytes as resident_bytes
from nanolab.optim import make_optimizers
from nanolab.render import conversation_segments
from nanolab.runtime import autocast, pick_device, synchronize
from nanolab.tokenizer import Tokenizer

__all__ = ["MiB", "peak_bytes", "reset_peak", "resident_bytes"]  # passed on from nanolab.memory; and all of this file
TOKENIZER_SIZE = 8_192  # for realistic lengths of rows; training one of 65,536 would take longer than the benchmark
PRODUCT_SIZE = {"cpu": 2_048, "cuda": 8_192}  # side of the square products that measure the device's matrix rate
CPU = torch.device("cpu")


def bench_device(device_type: str) -> torch.device:
    """The device of --device_type, "" being CUDA where there is one; exits with a sentence if it is not there."""
    try:
        return pick_device(device_type or ("cuda" if torch.cuda.is_available() else "cpu"))
    except ValueError as error:
        raise SystemExit(str(error)) from error


def train_small_tokenizer(mixture) -> Tokenizer:
    """A tokenizer of the size that the data gives, enough for realistic lengths."""
    count = min(len(mixture), 5_000)
    texts = (s.text for i in range(count) for s in conversation_segments(mixture[i]) if not s.is_special)
    return Tokenizer.train(texts, TOKENIZER_SIZE)


def load_tokenizer(folder: str, mixture, vocab_size: int) -> Tokenizer:
    """The tokenizer of a folder, or a small one trained on the rows when the folder is "".

    Exits with a message if it has more tokens than `vocab_size`, the model's vocabulary; -1: that does not matter.
    """
    tokenizer = Tokenizer.load(folder) if folder else train_small_tokenizer(mixture)
    if vocab_size != -1 and tokenizer.vocab_size > vocab_size:
        raise SystemExit(
            f"The tokenizer has {tokenizer.vocab_size:,} tokens, the model only --vocab_size {vocab_size:,}: "
            "give a larger --vocab_size."
        )
    return tokenizer


def make_model(depth: int, vocab_size: int, seed: int = 0, device: torch.device = CPU) -> GPT:
    """A fresh model whose head and c_proj are not the zeros that training starts with: zeros may be fast or slow."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig.from_depth(depth, vocab_size))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "lm_head.weight" or name.endswith("c_proj.weight"):
                weight.normal_(std=0.02)
    return model.to(device)


def sft_optimizers(model: GPT, dtype: str = "float32") -> list[torch.optim.Optimizer]:
    """Those of an SFT run with nanochat's settings; Muon's products in `dtype`."""
    return make_optimizers(model, 0.004, 0.2, 0.02, init_lr_frac=0.02, dtype=dtype)


def seed_backward(model: GPT, batches: Sequence[Batch], dtype: str = "float32", device: torch.device | None = None):
    """The seed's gradient in plain lines: logits of every position in float32, the mean of micro-batch means.

    Source: karpathy/nanochat, scripts/chat_sft.py and nanochat/gpt.py (November 2025).
    """
    device = device or model.device
    for batch in batches:
        batch = batch.to(device)
        with autocast(device, dtype):
            logits = model(batch.inputs)  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX)
        (loss / len(batches)).backward()


def move_weights(model: GPT, optimizers: Sequence[torch.optim.Optimizer]):
    """The end of a step: every optimizer, then no gradient."""
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)


def seconds_of(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Seconds that a call takes, until the device has done all of it."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, after one call to warm up: a, b, c, a, b, c, ...

    A noisy machine is then noisy for all of them.
    """
    for work in ways.values():
        work()
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            seconds[name].append(seconds_of(work))
    return seconds


def times_as_fast(reference: Sequence[float], other: Sequence[float]) -> float:
    """How many times as fast `other` is: the median, over rounds, of the ratio of the two's seconds in a round.

    >>> times_as_fast([2.0, 2.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(reference, other, strict=True))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]):
    """A markdown table; the first column to the left, numbers to the right."""
    print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
